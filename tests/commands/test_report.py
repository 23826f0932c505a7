"""`sspir report` in a real browser: the slider moves, sorting sorts, zoom is shared, nothing is fetched."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspir.__main__ import main
from tests.browser import chromium

EVIL = "</script><script>document.title='stolen'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about compared folders with a caption, and two runs."""
    from skimage import data

    root = tmp_path_factory.mktemp("report")
    photo, rng = np.asarray(data.astronaut()), np.random.default_rng(0)
    for i in range(5):
        hq = photo[i * 60 : i * 60 + 96, i * 50 : i * 50 + 128]
        noisy = np.clip(hq + rng.normal(0, 3 * (i * 3 % 5 + 1), hq.shape), 0, 255).astype(np.uint8)
        small = np.asarray(Image.fromarray(hq).resize((32, 24), Image.BICUBIC))
        for role, picture in (("hq", hq), ("ours", noisy), ("lq", small)):
            (root / role).mkdir(exist_ok=True)
            Image.fromarray(picture).save(root / role / f"photo_{i}.png")
    folders = ["--hq", f"{root}/hq", "--lq", f"{root}/lq", "--method", f"ours={root}/ours"]
    options = ["--metrics", "fast", "gmsd", "--workers", "1", "--noise-control"]
    assert main(["compare", *folders, "--out", f"{root}/results", *options]) == 0
    (root / "results/captions.json").write_text(json.dumps({f"photo_{i}": f"a caption {EVIL}" for i in range(5)}))
    for name, lr in (("full", 1e-4), ("small", 2e-4)):
        (root / name).mkdir()
        (root / name / "config.yaml").write_text(f"variant: {name}\nlr: {lr}\n")
        lines = [json.dumps({"step": s, "loss/noise": 1 / s, "val/psnr_y": 20 + s * lr}) for s in range(1, 9)]
        (root / name / "metrics.jsonl").write_text("\n".join(lines))
    out = root / "report.html"
    assert main(["report", *(f"{root}/{part}" for part in ("results", "full", "small")), "--out", f"{out}"]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        driver.set_window_size(1200, 1400)
        yield driver


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def find_all(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def choose(driver: Any, selector: str, name: str) -> None:
    find(driver, f'{selector} option[value="{name}"]').click()


def test_page_is_whole_without_a_browser(page: Path) -> None:
    text = page.read_text()
    for expected in (
        "psnr_y ↑",
        "gmsd ↓",
        "noise@ours",
        "ours is not judged against plain noise: that takes NIQE and one of VIF, HaarPSI, GMSD (metric=all",
        "val/psnr_y against lr",
    ):
        assert expected in text
    assert "http://" not in text
    assert "https://" not in text
    assert EVIL not in text


def test_nothing_is_fetched_and_nothing_fails(opened: Any) -> None:
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert len({url for url in asked if url.startswith("file")}) == 1
    assert opened.get_log("browser") == []
    assert opened.title == "results, full, small"  # the hostile caption did not run


def test_slider_moves(opened: Any) -> None:
    layer, divider = find(opened, ".layer"), find(opened, ".divider")
    assert "50%" in layer.get_attribute("style")
    opened.execute_script(
        "const s = document.querySelector('.slider'); s.value = 20; s.dispatchEvent(new Event('input'))"
    )
    assert "20%" in layer.get_attribute("style")
    assert "20%" in divider.get_attribute("style")
    stage = find(opened, ".stage")
    from selenium.webdriver import ActionChains

    offset = int(stage.size["width"] * 0.25)
    ActionChains(opened).move_to_element_with_offset(stage, offset, 0).click_and_hold().release().perform()
    assert float(find(opened, ".slider").get_attribute("value")) == pytest.approx(75, abs=1)


def test_sorting_sorts_worst_first(opened: Any) -> None:
    def values() -> list[float]:
        return [float(card.get_attribute("data-value")) for card in find_all(opened, ".card")]

    assert len(values()) == 5
    assert values() == sorted(values())  # PSNR: the lowest is the worst
    choose(opened, ".sort", "gmsd")
    assert values() == sorted(values(), reverse=True)  # GMSD: the highest is
    first = find(opened, ".card").get_attribute("data-image")
    assert find(opened, ".viewer h4").text == first
    find(opened, ".cards").find_element("xpath", "preceding-sibling::div[@class='bar']//button").click()
    assert values() == sorted(values())
    choose(opened, ".method", "bicubic")
    assert len(set(values())) == 5


def test_zoom_is_shared_by_all_methods(opened: Any) -> None:
    find(opened, ".viewer button[title='zoom in']").click()
    transforms = {image.get_attribute("style") for image in find_all(opened, ".viewer img")}
    assert len(find_all(opened, ".strip .pane")) == 3
    assert len(transforms) == 1
    assert "scale(1.5)" in transforms.pop()
    find(opened, ".viewer button[title='zoom out entirely']").click()
    assert "scale(1)" in find(opened, ".pane img").get_attribute("style")


def test_a_card_opens_its_image_with_caption_and_full_pictures(opened: Any) -> None:
    card = find_all(opened, ".card")[3]
    card.click()
    assert find(opened, ".viewer h4").text == card.get_attribute("data-image")
    assert find(opened, ".caption").text == f"a caption {EVIL}"  # shown as text
    opened.set_script_timeout(5)
    size = opened.execute_async_script(
        "const done = arguments[0], i = document.querySelector('.after');"
        "i.decode().then(() => done([i.naturalWidth, i.naturalHeight]))"
    )
    assert size == [128, 96]


def test_fits_a_phone(opened: Any) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
        stage = find(opened, ".stage").size
        assert 280 < stage["width"] <= 360
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "neither a per_image.csv nor a metrics.jsonl" in capsys.readouterr().err


@pytest.mark.thorough
def test_an_open_page_renews_itself_where_it_stands(browser: Any, page: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    out = tmp_path / "page.html"
    whole = page.read_text().replace('data-renewed="0"', 'data-renewed="0.3"')
    assert whole != page.read_text()
    out.write_text(whole)
    browser.get_log("performance")
    browser.get(out.as_uri())
    place = "return [document.querySelectorAll('details')[1].open, Math.round(scrollY)]"
    browser.execute_script("document.querySelectorAll('details')[1].open = true; scrollTo(0, 500)")
    browser.execute_script("window.old = true; document.querySelector('.scroll').scrollLeft = 0")
    out.write_text(page.read_text().replace("<h1>", "<h1>The end of "))
    WebDriverWait(browser, 20).until(lambda driver: find(driver, "h1").text.startswith("The end of"))
    assert browser.execute_script(place) == [True, 500]
    assert browser.execute_script("return window.old") is None
    assert [find_all(browser, "details")[index].get_attribute("open") for index in (0, 1)] == [None, "true"]
    browser.execute_script("window.old = true")
    browser.execute_async_script("setTimeout(arguments[0], 3000)")
    assert browser.execute_script("return window.old")  # the last page stays
    assert browser.get_log("browser") == []


def test_words_stand_where_a_picture_is_lost(browser: Any, page: Path, tmp_path: Path) -> None:
    shutil.copytree(page.parent, tmp_path / "copy")
    results, lost = tmp_path / "copy" / "results", tmp_path / "copy" / "ours" / "photo_4.png"
    listed = (results / "images.csv").read_text().replace(str(page.parent), str(tmp_path / "copy"))
    (results / "images.csv").write_text(listed)
    lost.unlink()
    out = tmp_path / "report.html"
    assert main(["report", str(results), "--out", str(out)]) == 0
    browser.get(out.as_uri())
    assert f"1 pictures of ours are missing: first {lost}" in find(browser, ".warning").text
    (card,) = (card for card in find_all(browser, ".card") if card.get_attribute("data-image") == "photo_4")
    assert find(card, ".absent").text == "no picture of ours"
    assert find_all(card, "img") == []
    card.click()
    assert [pane.text for pane in find_all(browser, ".pane")] == ["", "", "no picture of ours"]
    choose(browser, ".method", "noise@ours")
    assert {text.text for text in find_all(browser, ".card .absent")} == {"no picture of noise@ours"}
    shutil.rmtree(tmp_path / "copy" / "ours")
    (results / "images.csv").write_text("image,role,path\n")
    assert main(["report", str(results), "--out", str(out)]) == 0
    browser.get(out.as_uri())
    assert not find(browser, ".stage").is_displayed()
    assert not find(browser, ".slider").is_displayed()
    assert len(find_all(browser, ".card .absent")) == 5

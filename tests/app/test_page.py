"""The page in a real browser, which reaches this machine alone: nine scenes."""

import json
import os
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import TOKEN, Server, wait_until
from tests.browser import chromium
from tests.processes import start

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("downloads")
    with chromium("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost", downloads=folder) as driver:
        driver.downloads = folder
        yield driver


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A page that was just opened, alone; its photos and results are gone when it is closed."""
    browser.set_window_size(1300, 1200)
    browser.switch_to.new_window("tab")
    open_page(browser, server)
    yield browser
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in requests if each["method"] == "Network.requestWillBeSent"]
    assert sent
    assert not [url for url in sent if not url.startswith((server.address, "data:", "blob:", "about:", "chrome:"))]
    while len(browser.window_handles) > 1:
        browser.close()
        browser.switch_to.window(browser.window_handles[-1])
    server.until_idle()
    wait_until(lambda: not server.files(), 20)


def open_page(browser: Any, server: Server) -> None:
    browser.get(f"{server.address}/?token={TOKEN}")
    wait_until(lambda: browser.find_elements("css selector", "#files input[type=file]"))


def find(driver: Any, selector: str) -> Any:
    """The element, once it is there: what an answer changes appears piece by piece."""
    wait_until(lambda: driver.find_elements("css selector", selector), 20)
    return driver.find_element("css selector", selector)


def text(driver: Any, selector: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def shows(driver: Any, selector: str, words: str) -> None:
    try:
        wait_until(lambda: words in text(driver, selector))
    except AssertionError as error:
        raise AssertionError(f"{selector} shows {text(driver, selector)!r} instead of {words!r}") from error


def hand_in(driver: Any, *photos: Path) -> None:
    """Photos, whose captions and minutes are there at the end."""
    find(driver, "#files input[type=file]").send_keys("\n".join(str(photo) for photo in photos))
    shows(driver, "#foreseen", "About ")


def fill(driver: Any, selector: str, words: str) -> None:
    field = find(driver, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.clear()
    field.send_keys(words)


def restore(driver: Any, words: str = "restored in") -> None:
    click(driver, "#restore")
    shows(driver, "#stage", words)


def click(driver: Any, selector: str) -> None:
    wait_until(lambda: find(driver, selector).is_enabled())
    driver.execute_script("arguments[0].click()", find(driver, selector))


def images(driver: Any) -> list[Any]:
    """The two pictures of the slider, once they are loaded."""
    script = "return [...document.querySelectorAll('#slider img')].filter(each => each.complete && each.naturalWidth)"
    wait_until(lambda: len(driver.execute_script(script)) == 2)
    return list(driver.execute_script(script))


def downloaded(driver: Any, selector: str, name: str) -> Path:
    path = Path(driver.downloads, name)
    path.unlink(missing_ok=True)
    click(driver, selector)
    wait_until(path.exists)
    return path


def test_upload_proposes_words_size_and_time(page: Any, photos: Path) -> None:
    hand_in(page, photos / "one.png")
    assert "photo" in find(page, "#caption textarea").get_attribute("value")
    assert "one.png: 40 x 32 to 160 x 128 pixels" in text(page, "#foreseen")
    assert "seconds" in text(page, "#foreseen")
    fill(page, "#size input, #size textarea", "2")
    shows(page, "#foreseen", "to 80 x 64 pixels")
    fill(page, "#size input, #size textarea", "x")
    shows(page, "#foreseen", "scale: 'x' is no number")


def test_an_edited_caption_steers(page: Any, photos: Path) -> None:
    hand_in(page, photos / "one.png")
    fill(page, "#caption textarea", "an old brick wall")
    fill(page, "#size input, #size textarea", "2")
    restore(page)
    shows(page, "#command", "--caption=an old brick wall")


def test_restored_as_by_the_command_that_is_shown(page: Any, photos: Path, tmp_path: Path) -> None:
    hand_in(page, photos / "one.png")
    fill(page, "#size input, #size textarea", "3")
    restore(page)
    assert [(each.get_property("naturalWidth"), each.get_property("naturalHeight")) for each in images(page)] == [
        (120, 96)
    ] * 2
    made = np.asarray(Image.open(downloaded(page, "#download", "one.png")))
    shown = next(line for line in text(page, "#command").splitlines() if line.startswith("sspir restore"))
    program, *arguments = shlex.split(shown)
    assert program == "sspir"
    assert start(*arguments, prepare=partial(os.chdir, photos)).wait(120) == 0
    try:
        assert np.array_equal(made, np.asarray(Image.open(photos / "restored" / "one.png")))
    finally:
        shutil.rmtree(photos / "restored")


def test_the_line_slides_and_the_wheel_looks_closer(page: Any, photos: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    hand_in(page, photos / "one.png")
    restore(page)
    shown = images(page)[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", shown)

    def seen() -> tuple[str, ...]:
        return tuple(each.get_attribute("style") for each in images(page))

    before = seen()
    line = find(page, "#slider .inner, #slider .outer")
    ActionChains(page).click_and_hold(line).move_by_offset(-60, 0).release().perform()
    wait_until(lambda: seen() != before)
    before = seen()
    ActionChains(page).scroll_from_origin(ScrollOrigin.from_element(shown), 0, -300).perform()
    wait_until(lambda: seen() != before)


def test_several_come_as_a_zip_with_words_and_command(page: Any, photos: Path) -> None:
    hand_in(page, photos / "one.png", photos / "two.jpg")
    fill(page, "#size input, #size textarea", "2")
    shows(page, "#foreseen", "two.jpg: 32 x 40 to 64 x 80")
    click(page, "#more button")
    samples = "#samples input[type=number]"
    wait_until(lambda: find(page, samples).is_displayed())
    fill(page, samples, "2")
    find(page, samples).send_keys("\t")
    restore(page, "2 restored in")
    with zipfile.ZipFile(downloaded(page, "#archive", "restored.zip")) as archive:
        names = archive.namelist()
        assert {"restored/one.png", "restored/two.png", "restored/one.trust.png", "command.txt"} <= {*names}
        captions = [json.loads(line) for line in archive.read("captions.jsonl").decode().splitlines()]
        assert [each["file_name"] for each in captions] == ["one.png", "two.jpg"]
        assert "--samples=2" in archive.read("command.txt").decode()
    right = images(page)[1].get_attribute("src")
    find(page, "#shown input[value='where samples differ']").click()
    wait_until(lambda: "one.png.trust.png" in "".join(each.get_attribute("src") for each in images(page)))
    assert right != images(page)[1].get_attribute("src")
    page.find_elements("css selector", "#gallery button img")[1].click()
    wait_until(lambda: "two.png.trust.png" in "".join(each.get_attribute("src") for each in images(page)))


def test_cancelled_within_a_step(page: Any, server: Server, photos: Path) -> None:
    hand_in(page, photos / "large.png")
    click(page, "#restore")
    shows(page, "#stage", "Restoring: ")
    wait_until(lambda: find(page, "#stage").find_elements("css selector", "img[alt=preview]"))
    click(page, "#cancel")
    shows(page, "#stage", "Cancelled.")
    server.until_idle(10)
    wait_until(lambda: find(page, "#restore").is_enabled())


def test_two_at_once_wait_for_each_other(page: Any, server: Server, photos: Path) -> None:
    hand_in(page, photos / "large.png")
    first = page.current_window_handle
    click(page, "#restore")
    shows(page, "#stage", "Restoring: ")
    page.switch_to.new_window("tab")
    open_page(page, server)
    find(page, "#files input[type=file]").send_keys(str(photos / "one.png"))
    wait_until(lambda: find(page, "#restore").is_enabled())
    restore(page, "Waiting: one restoration is before yours.")
    second = page.current_window_handle
    page.switch_to.window(first)
    click(page, "#cancel")
    page.switch_to.window(second)
    shows(page, "#stage", "1 restored in")


def test_a_broken_file_is_named_and_the_rest_is_restored(page: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("no picture")
    hand_in(page, photos / "one.png", photos / "broken.jpg", tmp_path / "letter.png")
    shows(page, "#stage", "letter.png is not an image")
    shows(page, "#stage", "broken.jpg is a JPEG file, but broken")
    restore(page)
    shows(page, "#stage", "letter.png failed: letter.png is not an image")  # said at the end, too
    fill(page, "#size input, #size textarea", "2")
    restore(page)
    fill(page, "#size input, #size textarea", "9000")
    shows(page, "#foreseen", "the largest scale that fits is")
    restore(page, "one.png failed: one.png of 40 x 32 pixels would have")


def test_a_phone_in_the_dark(page: Any, server: Server, photos: Path) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(page, server)
    hand_in(page, photos / "one.png")
    restore(page)
    images(page)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]) < 60
    for selector in ("#restore", "#slider", "#download"):
        box = find(page, selector).rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390

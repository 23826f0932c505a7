"""The demo, with the shipped model and tiny photos."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sspir.__main__ import main
from sspir.commands.demo import demo
from sspir.images.io import Picture, write_image
from tests.images.written import DEEP, exif_block


def test_the_demo_says_in_words_what_it_restored(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PHOTOS", "")  # the demo sets it
    first, _ = demo(tmp_path / "demo", str(photo_folder), count=2)
    height = Image.open(first).height
    captions = json.loads((tmp_path / "demo" / "evaluation" / "captions.json").read_text())
    assert captions.keys() == {"0", "1"}
    assert all("photo" in caption for caption in captions.values())
    assert Image.open(demo(tmp_path / "demo", str(photo_folder), count=1)[0]).height < height
    flat = str(photo_folder / "train")  # of which none is set aside
    there = {path.stem for path in (photo_folder / "train").iterdir()}
    demo(tmp_path / "flat", flat, count=2)
    captions = json.loads((tmp_path / "flat" / "evaluation" / "captions.json").read_text())
    assert len(captions) == 2
    assert captions.keys() <= there


@pytest.mark.thorough
def test_files_beside_scikit_images_photos_are_nobodys_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PHOTOS", "")
    (tmp_path / "bad").mkdir()
    Image.new("RGB", (16, 12)).save(tmp_path / "bad" / "a.png")
    for name in ("README.md", "a.xmp", "Thumbs.db", "LICENSE", "b.mp4"):
        (tmp_path / "bad" / name).touch()
    demo(tmp_path / "demo", bad=Path("bad"), count=1)
    told = [message for message in caplog.messages if "left out;" in message]
    assert [message.partition(";")[0] for message in told] == ["bad: 1 .mp4, 1 other file left out"]


def test_bad_photos_keep_their_own_files_and_a_broken_one_is_named(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PHOTOS", "")
    for name in ("a.png", "x/a.jpg", "x/a.png", "y/a.png"):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo_folder / "val" / "0.png").resize((16, 12)).save(tmp_path / "bad" / name)
    write_image(tmp_path / "bad" / "deep.png", Picture(DEEP[:12, :16], DEEP[:12, :16, 0], exif=exif_block()))
    (tmp_path / "bad" / "broken.jpg").touch()
    out = tmp_path / "out, one (b)=1 ${x} \\\\${y}"  # which Hydra's grammar does not take
    given = ["--photos", str(photo_folder), "--count", "1", "--out", str(out), "--bad", str(tmp_path / "bad")]
    assert main(["demo", *given]) == 1
    assert "broken.jpg is an empty file" in caplog.text
    written = [path.relative_to(out / "bad").as_posix() for path in sorted((out / "bad").rglob("*.png"))]
    assert written == ["a.png", "deep.png", "x/a.png", "x/a.png.png", "y/a.png"]
    assert main(["restore", str(tmp_path / "bad"), "--out", str(tmp_path / "restored")]) == 1
    for name in written:
        assert (out / "bad" / name).read_bytes() == (tmp_path / "restored" / name).read_bytes(), name
    assert (out / "evaluation" / "summary.json").is_file()
    assert (out / "panels.png").is_file()


@pytest.mark.thorough
def test_the_demos_own_pictures_are_no_bad_photos_and_ones_own_stay(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PHOTOS", "")
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png")
    (tmp_path / "bad").mkdir()
    Image.new("RGB", (16, 12), "red").save(tmp_path / "bad" / "a.png")
    before = (tmp_path / "bad" / "a.png").read_bytes()
    given = ["demo", "--photos", str(photo_folder), "--count", "1", "--out", ".", "--bad", "."]
    assert main(given) == 2
    assert "bad/a.png exists and was not written by the demo; move it" in capsys.readouterr().err
    assert (tmp_path / "bad" / "a.png").read_bytes() == before
    (tmp_path / "bad" / "a.png").unlink()
    for _ in range(2):
        assert main(given) == 0
        assert [path.name for path in (tmp_path / "bad").rglob("*.png")] == ["a.png"]
    assert not (tmp_path / "bad" / "evaluation").exists()
    Image.new("RGB", (16, 12)).save(tmp_path / "b.png")
    Image.new("RGB", (16, 12), "red").save(tmp_path / "bad" / "b.png")
    before = (tmp_path / "bad" / "b.png").read_bytes()
    assert main(given) == 1
    assert (tmp_path / "bad" / "b.png").read_bytes() == before
    (tmp_path / "demo.jsonl").unlink()  # as a demo of before leaves its folder
    assert main(given) == 1
    (tmp_path / "demo.jsonl").unlink()
    (tmp_path / "evaluation" / "evaluate.jsonl").unlink()
    before = (tmp_path / "panels.png").read_bytes()
    assert main(given) == 2
    assert "panels.png exists and was not written by the demo; move it" in capsys.readouterr().err
    assert (tmp_path / "panels.png").read_bytes() == before
    for name in ("b.png", "panels.png"):
        (tmp_path / name).unlink()
    (tmp_path / "a.png").unlink()
    assert main(given) == 2
    assert "holds no photos to restore but those of the demo" in capsys.readouterr().err

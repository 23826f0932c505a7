"""The demo, with the shipped model and tiny photos."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sspir.commands.demo import demo


def test_the_demo_says_in_words_what_it_restored(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PHOTOS", "")  # the demo sets it
    first = demo(tmp_path / "demo", str(photo_folder), count=2)
    height = Image.open(first).height
    captions = json.loads((tmp_path / "demo" / "evaluation" / "captions.json").read_text())
    assert captions.keys() == {"0", "1"}
    assert all("photo" in caption for caption in captions.values())
    assert Image.open(demo(tmp_path / "demo", str(photo_folder), count=1)).height < height
    flat = str(photo_folder / "train")  # of which none is set aside
    there = {path.stem for path in (photo_folder / "train").iterdir()}
    demo(tmp_path / "flat", flat, count=2)
    captions = json.loads((tmp_path / "flat" / "evaluation" / "captions.json").read_text())
    assert len(captions) == 2
    assert captions.keys() <= there

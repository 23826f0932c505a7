"""`sspir pack`, from the outside."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspir.__main__ import main
from sspir.data import Shards


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(5):
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "1.txt").write_text("one")
    return tmp_path / "photos"


def test_packs_with_captions(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pack", str(photos), "--out", str(tmp_path / "out"), "--captions", "beside", "--shard-mb", "0.004"]
    assert main(arguments) == 0
    assert "5 photos" in capsys.readouterr().out
    assert [(Shards(tmp_path / "out")[i]["id"], Shards(tmp_path / "out")[i]["caption"]) for i in (0, 1)] == [
        ("0.png", ""),
        ("1.png", "one"),
    ]
    assert main(arguments) == 2
    assert main([*arguments[:4], "--overwrite"]) == 0
    assert len(Shards(tmp_path / "out").shards) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.npy",
        "manifest.json",
        "shard-000000.tar",
    ]


def test_broken_photos_are_named_and_left_out(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "2.png").write_bytes(b"")
    assert main(["pack", str(photos), "--out", str(tmp_path / "out")]) == 1
    assert "2.png" in capsys.readouterr().err
    assert len(Shards(tmp_path / "out")) == 4


def test_one_name_in_two_folders_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("3.png", "1.png", "9.png"):
        shutil.copy(photos / "1.png", other / name)
    assert main(["pack", str(photos), str(other), "--out", str(tmp_path / "out")]) == 2
    assert "Several folders hold 1.png, 3.png; pack them apart" in capsys.readouterr().err


def test_a_name_that_is_no_utf_8_is_packed_like_any(photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    (photos / "4.png").rename(photos / name)
    assert main(["pack", str(photos), "--out", str(tmp_path / "out")]) == 0
    assert Shards(tmp_path / "out")[4]["id"] == name


def test_shards_that_are_there_stay_until_they_are_to_be_replaced(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "out" / "shard-000000.tar"
    other.parent.mkdir()
    other.write_text("another tool's")
    arguments = ["pack", str(photos), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite", "--captions", str(tmp_path / "none.jsonl")]) == 2
    assert other.read_text() == "another tool's"
    assert main([*arguments, "--overwrite"]) == 0
    assert len(Shards(tmp_path / "out")) == 5

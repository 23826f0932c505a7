"""`sspir restore` with photos of phones: what is written for them, and what of them is kept."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sspir.__main__ import main
from sspir.images.io import read_image
from tests.images.written import photo
from tests.peers.networks import rrdbnet_file


def test_a_folder_of_a_phone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, kind in {"a.HEIC": "heic", "b.avif": "avif", "c.jxl": "jxl", "d.dng": "dng"}.items():
        (folder / name).write_bytes(photo(kind, 1 if kind == "jxl" else 6))
    Image.fromarray(read_image(folder / "a.HEIC").pixels).save(folder / "a.jpg")
    (folder / "e.heic").write_bytes(photo("heic")[:900])
    command = ["restore", str(folder), "--out", str(out), "--weights", str(rrdbnet_file(tmp_path / "x.pth"))]
    command += ["--format", "same", "--scale", "0.5"]
    assert main([*command, "--dry-run"]) == 1
    assert "96 x 64" in capsys.readouterr().out
    assert main([*command, "--drop-gps"]) == 1
    assert "failed: e.heic: " in capsys.readouterr().err
    assert sorted(path.name for path in out.glob("*.*g")) == ["a.jpg", "a.png", "b.png", "c.png", "d.png"]
    lines = {line["output"]: line for line in map(json.loads, (out / "restore.jsonl").read_text().splitlines())}
    assert lines["d.png"]["warnings"][0].startswith("Developed from RAW")
    for name in ("a", "b", "c", "d"):
        made = Image.open(out / f"{name}.png")
        assert made.size == ((48, 32) if name == "c" else (32, 48))
        assert made.getexif().get_ifd(0x8769)[36867] == "2020:02:03 04:05:06"
        assert 0x8825 not in made.getexif()
    assert main(command) == 1  # with the place, they are others
    assert "5 restored, 0 were done before, 1 failed" in capsys.readouterr().out
    assert Image.open(out / "a.png").getexif().get_ifd(0x8825)[1] == "N"

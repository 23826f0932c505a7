"""`sspir degrade`, from the outside."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sspir.__main__ import main
from sspir.commands import degrade
from sspir.data import ImageFolder, PairedFolder
from sspir.degradation import Sharpen
from sspir.images.io import read_image
from tests.degradation.presets import preset


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a.png", "deep/b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (50, 43, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_pairs_can_be_trained_on_and_repeated_from_the_json_lines(photos: Path, tmp_path: Path) -> None:
    assert main(["degrade", str(photos), "--preset", "light", "--out", str(tmp_path / "out")]) == 0
    pairs = PairedFolder(tmp_path / "out" / "lq", tmp_path / "out" / "hq")
    rows = [json.loads(line) for line in (tmp_path / "out" / "degradations.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["a.png", "deep/b.jpg"]
    assert [pair["id"] for pair in (pairs[0], pairs[1])] == [row["file_name"] for row in rows]
    for i, row in enumerate(rows):
        assert row["size"] == [48, 40]
        again = preset("light").apply(pairs[i]["hq"][None], [row["steps"]])[0]
        assert (again - pairs[i]["lq"]).abs().max() < 1e-6


def test_the_truth_is_written_as_the_degradation_makes_it(photos: Path, tmp_path: Path) -> None:
    assert main(["degrade", str(photos), "--preset", "camera", "--out", str(tmp_path / "out")]) == 0
    for line in (tmp_path / "out" / "degradations.jsonl").read_text().splitlines():
        row = json.loads(line)
        photo = read_image(photos / row["source"]).tensor()[None, :, :48, :40]
        for written, made in zip(("hq", "lq"), preset("camera").make(photo, [row["steps"]]), strict=True):
            assert (read_image(tmp_path / "out" / written / row["file_name"]).tensor() - made).abs().max() < 0.51 / 255


def test_a_photo_s_draw_does_not_depend_on_the_folder(photos: Path, tmp_path: Path) -> None:
    main(["degrade", str(photos), "--preset", "light", "--out", str(tmp_path / "all")])
    main(["degrade", str(photos / "a.png"), "--preset", "light", "--out", str(tmp_path / "one")])
    main(["degrade", str(photos / "a.png"), "--preset", "light", "--out", str(tmp_path / "two"), "--seed", "1"])
    files = [(tmp_path / name / "lq" / "a.png").read_bytes() for name in ("all", "one", "two")]
    assert files[0] == files[1] != files[2]


def test_photos_that_differ_in_the_suffix_only_are_kept_apart(photos: Path, tmp_path: Path) -> None:
    Image.open(photos / "a.png").save(photos / "a.bmp")
    assert main(["degrade", str(photos), "--preset", "bicubic", "--out", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "degradations.jsonl").read_text().splitlines()]
    assert {row["source"]: row["file_name"] for row in rows} == {
        "a.bmp": "a.png",
        "a.png": "a.png.png",
        "deep/b.jpg": "deep/b.png",
    }
    assert len(PairedFolder(tmp_path / "out" / "lq", tmp_path / "out" / "hq")) == 3


def test_broken_photos_are_named_and_skipped(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "c.png").write_bytes(b"nothing")
    assert main(["degrade", str(photos), "--preset", "bicubic", "--out", str(tmp_path / "out"), "--sharpen"]) == 1
    assert "c.png" in capsys.readouterr().err
    assert '"sharpened": true' in (tmp_path / "out" / "degradations.jsonl").read_text()
    hq = ImageFolder(tmp_path / "out" / "hq")[0]["hq"]
    expected = Sharpen()(ImageFolder(photos)[0]["hq"][None, :, :48, :40])[0]
    assert (hq - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_sheet_shows_the_photo_and_every_draw(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["degrade", str(photos), "--preset", "realesrgan_strong", "--grid", str(tmp_path / "sheet.png")]
    assert main([*arguments, "--count", "6", "--crop", "32"]) == 0
    assert capsys.readouterr().out.endswith(f"see {tmp_path / 'sheet.png'}.\n")
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / "sheet.png")))
    assert sheet.shape[1] == 4 * (32 + 6) + 6
    hq = ImageFolder(photos)[0]["hq"]
    assert torch.equal(
        sheet[6:38, 6:38], (hq[:, 9:41, 6:38] * 255).round().byte().permute(1, 2, 0)
    )  # rounding of the centre
    cells = [sheet[6:38, 6 + i * 38 : 38 + i * 38].float() for i in range(4)]
    assert all((a - b).abs().mean() > 1 for a, b in pairwise(cells))
    before = (tmp_path / "sheet.png").read_bytes()
    assert main([*arguments, "--count", "2", "--crop", "32"]) == 2
    assert "sheet.png is there already; name another file, or" in capsys.readouterr().err
    assert (tmp_path / "sheet.png").read_bytes() == before
    assert main([*arguments, "--count", "2", "--crop", "32", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "typo", "--out", "x"], "bsrgan"),
        (["--preset", "light", "--grid", "x.png", "--crop", "30"], "multiple"),
        (["--preset", "light", "--grid", "x.png", "--crop", "100000"], "too large; lower one of them"),
        (["--preset", "{bad}", "--out", "x"], "kernel_size"),
        (["--preset", "bsrgan", "--scale", "2", "--out", "x"], "numbers are those of scale 4, not 2; choose another"),
    ],
)
def test_bad_input_says_what_to_do(
    arguments: list[str], words: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "_target_: sspir.degradation.Degradation\nscale: 1\noperations:\n"
        "  - {_target_: sspir.degradation.Sinc, kernel_size: [4, 8]}\n"
    )
    filled = [
        str(bad) if word == "{bad}" else str(tmp_path / word) if word.startswith("x") else word for word in arguments
    ]
    assert main(["degrade", str(photos), *filled]) == 2
    assert words in capsys.readouterr().err


def test_a_full_folder_is_not_overwritten_unasked(photos: Path, tmp_path: Path) -> None:
    arguments = ["degrade", str(photos), "--preset", "bicubic", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite"]) == 0


def listed(out: Path) -> set[str]:
    """The pairs that the lines name, which are all that are there."""
    rows = [json.loads(line) for line in (out / "degradations.jsonl").read_text().splitlines()]
    names = {row["file_name"] for row in rows}
    for half in ("lq", "hq"):
        assert {path.relative_to(out / half).as_posix() for path in (out / half).rglob("*.png")} == names
    return names


def test_overwriting_leaves_no_pair_of_before(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--preset", "bicubic", "--out", str(out), "--overwrite"]
    assert main(["degrade", str(photos), *arguments]) == 0
    (tmp_path / "kept.png").touch()
    with (out / "degradations.jsonl").open("a") as file:
        file.write('{"file_name": "../../kept.png"}\n{"file_na')  # what is no pair of ours, and the end of a full disk
    assert main(["degrade", str(photos / "deep"), *arguments]) == 0
    assert listed(out) == {"b.png"}
    assert (tmp_path / "kept.png").exists()
    assert main(["degrade", str(out / "hq"), *arguments]) == 0  # the photos are not removed before they are read
    assert listed(out) == {"b.png"}


def test_what_is_done_is_on_record_when_it_is_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sspir.images.io import read_image

    def stopped(path: Path) -> object:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr("sspir.images.io.read_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        degrade.run([str(photos), "--preset", "bicubic", "--out", str(tmp_path / "out")])
    assert listed(tmp_path / "out") == {"a.png"}


def test_overwriting_removes_the_half_of_a_pair_that_was_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sspir.images.io import write_image

    def stopped(path: Path, *rest: object) -> None:
        if path == tmp_path / "out" / "hq" / "a.png":
            raise KeyboardInterrupt
        write_image(path, *rest)

    arguments = [str(photos / "deep"), "--preset", "bicubic", "--out", str(tmp_path / "out"), "--overwrite"]
    with monkeypatch.context() as patched:
        patched.setattr("sspir.images.io.write_image", stopped)
        with pytest.raises(KeyboardInterrupt):
            degrade.run([str(photos), *arguments[1:]])
    assert (tmp_path / "out" / "lq" / "a.png").exists()
    assert main(["degrade", *arguments]) == 0
    assert listed(tmp_path / "out") == {"b.png"}
    monkeypatch.setattr("sspir.files.append_bytes", lambda *_: False)
    assert main(["degrade", *arguments]) == 2
    assert "The disk of" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_name_that_is_no_utf_8_is_degraded_like_any(photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").rename(photos / os.fsdecode(b"\xff\xfe.png"))
    assert main(["degrade", str(photos), "--preset", "light", "--out", str(tmp_path / "out")]) == 0
    assert listed(tmp_path / "out") == {os.fsdecode(b"\xff\xfe.png"), "deep/b.png"}

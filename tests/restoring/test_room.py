"""Results that would be too large: refused from the header, before anything is decoded or made."""

import json
import math
from pathlib import Path

import pytest
import torch

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.images.io import read_size
from sspir.images.room import Size, enlarged
from sspir.models.latent import upscale
from tests.images.test_io import chunk
from tests.images.written import plain
from tests.pipelines import photo, tiny_pipeline, write_photo


def header_of(path: Path, width: int, height: int) -> Path:
    """A PNG that has a size and no pixel."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plain("PNG")[:8] + chunk(b"IHDR", header) + plain("PNG")[-12:])
    return path


def test_sizes_are_those_of_the_scale_up_to_the_limit() -> None:
    assert enlarged((20, 31), 1.5, math.inf) == (30, 46)
    assert enlarged((1, 1), 0.1, 10) == (1, 1)
    assert enlarged((100, 100), 20, 4_000_000) == (2000, 2000)
    with pytest.raises(UserError, match=r"would have 4.0004 megapixels at scale 20.001, .* scale that fits is 20,"):
        enlarged((100, 100), 20.001, 4_000_000)
    for scale in (0, -1, math.nan, math.inf, "large"):
        with pytest.raises(UserError, match=r"scale: .* is no number above 0"):
            enlarged((1, 1), scale, math.inf)  # type: ignore[arg-type]  # what people hand in


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ({"scale": 2}, (48, 40)),
        ({"scale": 2, "max_side": 36}, (36, 30)),
        ({"box": (100, 48)}, (48, 40)),
        ({"box": (30, 480)}, (36, 30)),
        ({"long_side": 12}, (12, 10)),
        ({"short_side": 100}, (120, 100)),
        ({"short_side": 100, "max_side": 60}, (60, 50)),
    ],
)
def test_a_size_is_one_rule_that_keeps_the_shape(rule: dict[str, object], made: tuple[int, int]) -> None:
    assert enlarged((24, 20), Size(**rule), math.inf) == made  # type: ignore[arg-type]  # of a table
    turned = {name: value[::-1] if name == "box" else value for name, value in rule.items()}  # type: ignore[index]  # a box
    assert enlarged((20, 24), Size(**turned), math.inf) == made[::-1]  # type: ignore[arg-type]  # of a table


@pytest.mark.parametrize(
    "rule", [{}, {"scale": 2, "long_side": 3}, {"max_side": 9}, {"box": (0, 3)}, {"long_side": 1.5}]
)
def test_two_rules_and_none_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Size(**rule)  # type: ignore[arg-type]  # what people hand in


def test_results_have_the_size_that_was_asked_for(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, height, width in (("wide.png", 12, 16), ("high.png", 24, 10)):
        write_photo(tmp_path / "in" / name, height, width)
    command = ["restore", str(tmp_path / "in"), "--weights", str(weights), "--steps", "1", "--out"]
    assert main([*command, str(tmp_path / "two"), "--size", "30x40", "--scale", "2"]) == 2
    assert "--scale: not allowed with argument --size" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "two"), "--size", "30x"]) == 2
    assert "'30x' is not WxH, such as 1920x1080" in capsys.readouterr().err
    out = tmp_path / "out"
    assert main([*command, str(out), "--size", "40x30"]) == 0
    assert {name: read_size(out / name) for name in ("wide.png", "high.png")} == {
        "wide.png": (30, 40),
        "high.png": (30, 12),
    }
    entries = [json.loads(line) for line in (out / "restore.jsonl").read_text().splitlines()]
    assert [entry["scale"] for entry in entries if entry["status"] == "done"] == [{"box": [40, 30]}] * 2
    capsys.readouterr()
    assert main([*command, str(out), "--size", "40x30"]) == 0
    assert "0 restored, 2 were done before" in capsys.readouterr().out
    assert main([*command, str(out), "--scale", "2", "--max-side", "30"]) == 0
    assert read_size(out / "wide.png") == (22, 30)


def test_a_photo_that_is_larger_is_restored_at_its_size_and_reduced() -> None:
    pipeline = tiny_pipeline()
    given = photo(24, 20)[None]
    small = pipeline.restore(given, ["a"], (12, 10), [0], pipeline.settings(steps=1)).images
    whole = pipeline.restore(given, ["a"], (24, 20), [0], pipeline.settings(steps=1)).images
    assert torch.equal(small, upscale(whole, (12, 10)))
    (image,) = pipeline(photo(24, 20), "a", scale=Size(long_side=12), steps=1).images
    assert image.size == (10, 12)


@pytest.mark.thorough
def test_a_dry_run_tells_what_and_how_long_and_writes_nothing(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "in" / "a.png", 8, 12)
    header_of(tmp_path / "in" / "large.png", 300, 300)
    out = tmp_path / "out"
    command = ["restore", str(tmp_path / "in"), "--weights", str(weights), "--out", str(out), "--steps", "1"]
    assert main([*command, "--long-side", "24", "--max-output-pixels", "1", "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{tmp_path}/in/a.png, 12 x 8 -> {out}/a.png, 24 x 16"
    assert told[-1].startswith("2 would be restored, 0 were done before, 0 would fail; about ")
    assert told[-1].endswith("as a trial of 64 x 64 pixels took.")
    assert main([*command, "--max-output-pixels", "1", "--dry-run"]) == 1
    assert "would fail: large.png: " in capsys.readouterr().err
    header_of(tmp_path / "in" / "large.png", 1500, 1000)
    assert main([*command, "--long-side", "8", "--max-pixels", "1", "--dry-run"]) == 1
    assert "would fail: large.png: its 1500 x 1000 pixels are more than --max-pixels" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--max-output-pixels", "1"]) == 1  # the header has no pixels
    write_photo(tmp_path / "in" / "b.png", 8, 12)
    capsys.readouterr()
    assert main([*command, "--max-output-pixels", "1", "--dry-run"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 would be restored, 1 were done before, 1 would fail")
    assert not (out / "b.png").exists()


def test_an_endless_scale_is_refused_before_a_folder_is_made(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = header_of(tmp_path / "in" / "a.png", 64, 48), tmp_path / "out"
    command = ["restore", str(source), "--out", str(out), "--weights", str(weights)]
    assert main([*command, "--scale", "1e9"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{source} of 64 x 48 pixels" in told
    assert "more than the limit of 400; the largest scale that fits is 360.843" in told
    assert main([*command, "--scale", "1e9", "--max-output-pixels", "0"]) == 2
    assert "would take 8.583e+12 GiB, and this machine has" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
    assert main([*command, "--max-output-pixels", "0", "--captioner", "none"]) == 2
    assert "broken or cut off" in capsys.readouterr().err  # the limit was lifted


@pytest.mark.parametrize(("suffix", "longest"), [("webp", "16,383"), ("jpg", "65,500")])
def test_a_format_that_cannot_hold_the_result_is_refused_before_it_is_made(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture, suffix: str, longest: str
) -> None:
    header_of(tmp_path / "in" / "long.png", 17_000, 1)
    write_photo(tmp_path / "in" / "small.png", 8, 8)
    command = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--weights", str(weights)]
    command += ["--steps", "1", "--captioner", "none", "--format", suffix]
    sentence = (
        f"long.png at 68000 x 4 pixels would be too large for .{suffix} files, whose sides have at most {longest}"
    )
    for more in (["--dry-run"], []):
        assert main([*command, *more]) == 1
        assert sentence in capsys.readouterr().err


def test_one_photo_that_is_too_large_does_not_keep_the_others(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header_of(tmp_path / "in" / "large.png", 300, 300)
    write_photo(tmp_path / "in" / "small.png", 8, 8)
    command = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--weights", str(weights)]
    assert main([*command, "--max-output-pixels", "1", "--steps", "1"]) == 1
    assert "large.png of 300 x 300 pixels would have 1.44 megapixels" in capsys.readouterr().err
    assert (tmp_path / "out" / "small.png").is_file()


def test_a_pipeline_refuses_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()
    with pytest.raises(UserError, match=r"a\.png of 20000 x 30000 pixels"):
        pipeline([photo(8, 8), header_of(tmp_path / "a.png", 20_000, 30_000)], "a")
    monkeypatch.setattr(pipeline, "max_output_pixels", 2000)
    with pytest.raises(UserError, match=r"The photo of 20 x 24 pixels .* scale that fits is 2\.041,"):
        pipeline(photo(24, 20), "a", scale=2.1, steps=1)
    assert pipeline(photo(24, 20), "a", scale=2.041, steps=1).images[0].size == (41, 49)

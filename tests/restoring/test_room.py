"""Results that would be too large: refused from the header, before anything is decoded or made."""

import math
from pathlib import Path

import pytest

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.images.room import enlarged
from tests.images.test_io import chunk, png
from tests.pipelines import photo, tiny_pipeline, write_photo


def header_of(path: Path, width: int, height: int) -> Path:
    """A PNG that has a size and no pixel."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png()[:8] + chunk(b"IHDR", header) + png()[-12:])
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

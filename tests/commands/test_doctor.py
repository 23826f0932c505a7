"""`sspir doctor`: one line per metric, and what to do for those that lack something."""

from pathlib import Path

import pytest

from sspir.__main__ import main


def test_metrics_are_listed_with_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["doctor", "metrics"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ready    psnr_y" in lines
    assert "ready    niqe" in lines
    at = lines.index("missing  clipiqa")
    needs = [line for line in lines[at + 1 : at + 3] if line.strip().startswith("-")]
    assert any(f"{tmp_path}/hub/clip/RN50.pt" in need and "afeb0e10" in need for need in needs)


def test_unknown_topic_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "weather"]) == 2
    assert "metrics" in capsys.readouterr().err


def test_an_experiment_that_has_all_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "tiny"]) == 0
    told = capsys.readouterr().out
    assert "an optimizer step sees 16 images: 16 per device x 1 device(s) x 1 accumulated" in told
    assert "missing" not in told


def test_an_experiment_without_its_weights_names_them_and_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "ssp_ir", "backbone.path=/nowhere/sd15"]) == 1
    told = capsys.readouterr().out
    assert "/nowhere/sd15" in told
    assert "backbone.path" in told

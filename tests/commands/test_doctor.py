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

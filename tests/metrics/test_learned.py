"""Learned metrics without their weights: in words, at once, and without a network call."""

import importlib.util
import socket
from pathlib import Path

import pytest
import torch

from sspir.errors import UserError
from sspir.evaluation.measure import measure_image
from sspir.evaluation.results import Results
from sspir.evaluation.table import summary_table
from sspir.files import sha256
from sspir.metrics.base import MetricUnavailableError, usable
from sspir.metrics.learned import FID, LearnedNoReference
from sspir.metrics.weight_files import WEIGHTS, WeightFile, problems


@pytest.fixture(autouse=True)
def _no_weights_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network call")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_what_is_missing_is_named_with_path() -> None:
    metrics = {
        "fid": FID(),
        "musiq": LearnedNoReference("musiq"),
    }
    ready, missing = usable(metrics)
    assert not ready
    assert "pt_inception" in missing["fid"]
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(MetricUnavailableError, match="musiq_koniq"):
        metrics["musiq"].update(image)


def test_a_broken_file_is_told_from_a_missing_one(tmp_path: Path) -> None:
    file = WeightFile("pyiqa", "some.pth", "2cf24dba", "https://example.org/")
    assert "is missing" in str(file.problem())
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b"hallo")
    assert "is broken" in str(file.problem())
    file.path.write_bytes(b"hello")
    assert sha256(file.path).startswith("2cf24dba")
    assert file.problem() is None


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_every_learned_metric_lists_all_it_lacks(name: str) -> None:
    package = importlib.util.find_spec("pyiqa") is None
    assert len(problems(name)) == len(WEIGHTS[name]) + package


def test_the_column_says_so_and_the_rest_is_measured() -> None:
    ready, missing = usable({"clipiqa": LearnedNoReference("clipiqa")})
    results = Results(ready, missing)
    results.add(measure_image(ready, "a", {"ours": torch.rand(3, 32, 32)}))
    summary = results.summary()
    assert "RN50.pt" in summary["unavailable"]["clipiqa"]
    assert "not here" in summary_table(summary)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="maniqa-pipal"):
        LearnedNoReference("maniqa")  # KonIQ's: not what the tables print

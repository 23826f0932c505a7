"""The benchmark of a graphics card, with small networks on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_gpu.py"
PARTS = {
    "restore", "stock", "train_tiny", "train_sd", "peak", "sizes", "many_sizes", "fused_qkv", "vae", "startup",
}  # fmt: skip


def measured(folder: Path, *arguments: str) -> tuple[int, dict[str, dict], str]:
    """Exit status, the figures of each part, and the table."""
    command = [sys.executable, "-W", "ignore", BENCHMARK, "--tiny", "--out", folder / "gpu.json", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert (folder / "gpu.json").is_file(), done.stderr[-4000:]
    return done.returncode, json.loads((folder / "gpu.json").read_text())["parts"], (folder / "gpu.md").read_text()


@pytest.mark.thorough
def test_every_part_runs(tmp_path: Path) -> None:
    status, parts, table = measured(tmp_path)
    assert parts.keys() == PARTS
    cases = {f"{part}, {case}": figures for part, cases in parts.items() for case, figures in cases.items()}
    assert {name for name, figures in cases.items() if {"error", "left out"} & figures.keys()} == set()
    assert status == 0
    for part in PARTS:
        assert f"| {part} | took | seconds " in table
    assert parts["restore"]["50 guided, captured"]["times_as_fast"] > 0
    assert parts["train_sd"]["batch 2, ours eager"]["times_as_fast_as_plain"] > 0
    assert parts["vae"]["bfloat16"]["psnr"] < 100 < parts["vae"]["float32"]["psnr"]


@pytest.mark.thorough
def test_a_part_that_does_not_fit_says_so_and_what_was_measured_stays(tmp_path: Path) -> None:
    status, parts, table = measured(tmp_path, "--seconds", "0.001", "--only", "vae", "peak")
    assert status == 0
    assert parts["peak"]["all"].keys() == {"left out"}
    assert parts["vae"]["all"].keys() == {"left out"}
    assert "| vae | all | left out " in table

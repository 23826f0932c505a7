"""The benchmark of a graphics card, with small networks on a CPU; the tables of the comparison of objectives."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from sspir.config.compose import compose_config

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_gpu.py"
PARTS = {
    "restore", "stock", "train_tiny", "train_sd", "lora", "peak", "sizes", "many_sizes", "fused_qkv", "vae", "startup",
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


@pytest.fixture(scope="module")
def objectives() -> ModuleType:
    spec = importlib.util.spec_from_file_location("objectives", BENCHMARK.with_name("objectives.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_of_the_comparison_is_a_training(objectives: ModuleType) -> None:
    for changes in objectives.ROWS.values():
        compose_config("train", [text.replace("HALF", "5") for text in changes])


def measured_run(
    objectives: ModuleType, folder: Path, lpips: float, checkpoint: str = "last", noise: float = 0.9
) -> None:
    """A run's files as training and measuring write them: seven images, LPIPS as told and all else equal."""
    good = {metric: metric in ("psnr_y", "ssim_y") for metric in objectives.METRICS}
    facts = {metric: {"higher_is_better": higher, "ideal": None} for metric, higher in good.items()}
    lines = [",".join(["image", "method", *objectives.METRICS])]
    for image in range(7):
        for method, value in (("processor", 0.5), ("restored", lpips), ("noise@restored", noise)):
            values = [value + 0.001 * image if metric == "lpips" else 1.0 for metric in objectives.METRICS]
            lines.append(",".join(map(str, [image, method, *values])))
    for name in objectives.SETS:
        place = folder / "measured" / checkpoint / objectives.slug(name)
        place.mkdir(parents=True)
        (place / "per_image.csv").write_text("\n".join(lines))
        (place / "summary.json").write_text(json.dumps({"metrics": facts}))


def test_rows_are_compared_over_seeds_and_at_equal_cost(objectives: ModuleType, tmp_path: Path) -> None:
    options = SimpleNamespace(out=tmp_path, seeds=2, samples=320)
    for name, lpips, seconds in (("pixel-s0", 0.5, 100), ("consistency-s0", 0.3, 400), ("consistency-s1", 0.4, 400)):
        measured_run(objectives, tmp_path / name, lpips)
        (tmp_path / name / "cpu_seconds.json").write_text(str(seconds))
        (tmp_path / name / "checkpoints").mkdir()
        for step in (2, 4, 6, 8, 20):
            (tmp_path / name / "checkpoints" / f"step-{step}.ckpt").touch()
    chosen = objectives.at_equal_cost(tmp_path / "consistency-s0", 100, 20)
    assert chosen == "step-4"  # the last within a quarter of its 400 seconds
    assert objectives.milestones(tmp_path / "consistency-s0") == [4]
    assert objectives.at_equal_cost(tmp_path / "pixel-s0", 100, 20) == "last"
    assert objectives.at_equal_cost(tmp_path / "consistency-s1", 10, 20) == ""
    measured_run(objectives, tmp_path / "consistency-s0", 0.7, chosen, noise=0.1)
    (tmp_path / "consistency-s0" / "measured" / "equal.txt").write_text(chosen)
    objectives.report(options)
    whole, equal = (tmp_path / "objectives.md").read_text().split("At the CPU seconds of pixel, amid their schedules")
    assert whole.count("| consistency (2 seeds) | 1.00 | 1.000 | 0.353 + | 1.000 | 1.00 | 1.00 | 400 | lpips |") == 3
    assert whole.count("| pixel | 1.00 | 1.000 | 0.503 | 1.000 | 1.00 | 1.00 | 100 | lpips |") == 3
    assert equal.count("| consistency | 1.00 | 1.000 | 0.703 | 1.000 | 1.00 | 1.00 | 80 | nothing |") == 3

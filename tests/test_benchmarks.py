"""The benchmark of a graphics card, with small networks on a CPU; the tables of the comparison of objectives."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from sspir.config.compose import compose_config
from sspir.evaluation.results import describe
from sspir.metrics.detail import GradientRatio
from sspir.metrics.structural import GMSD
from tests.pipelines import write_photo

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


@pytest.mark.slow
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
    operations, seconds = (
        parts["train_sd"]["batch 1, operations"]["tflop"],
        parts["train_sd"]["batch 1, ours eager"]["seconds"],
    )
    assert parts["peak"]["batch 1, ours eager"]["tflop_per_s"] == pytest.approx(operations / seconds, rel=1e-3)
    assert "times_as_fast_as_plain" not in parts["lora"]["batch 1 in 8 GB"]  # no plain loop has adapters
    assert "psnr" not in parts["fused_qkv"]["50 guided, captured"]  # of networks made anew
    assert parts["vae"]["bfloat16"]["psnr"] < 100 < parts["vae"]["float32"]["psnr"]


@pytest.mark.slow
def test_a_part_that_does_not_fit_says_so_and_what_was_measured_stays(tmp_path: Path) -> None:
    status, parts, table = measured(tmp_path, "--seconds", "0.001", "--only", "vae", "peak")
    assert status == 0
    assert parts["peak"]["all"].keys() == {"left out"}
    assert parts["vae"]["all"].keys() == {"left out"}
    assert "| vae | all | left out " in table


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_card_only_the_small_networks_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--tiny tries everything on a CPU" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_a_folder_of_something_else_is_not_made_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(tmp_path / "a.png", 8, 8, 0)
    monkeypatch.setattr(sys, "argv", ["bundle.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        load("bundle").main()
    assert (tmp_path / "a.png").is_file()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARK.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def objectives() -> ModuleType:
    return load("objectives")


@pytest.mark.thorough
def test_every_row_of_the_comparison_is_a_training(objectives: ModuleType) -> None:
    for changes in objectives.ROWS.values():
        compose_config("train", [text.replace("HALF", "5") for text in changes])


@pytest.fixture
def quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the benchmark on one small picture, by one metric."""
    for folder in ("photos/train", "photos/val", "benchmarks/set14/HQ"):
        write_photo(tmp_path / folder / "0.png", 64, 64, 0)
    monkeypatch.setenv("SSPIR_DATA", str(tmp_path))

    def run(*arguments: str) -> int:
        out = ["--out", str(tmp_path / "out"), "--workers", "1", "--metrics", "grid4"]
        monkeypatch.setattr(sys, "argv", ["quality.py", "set14_light", "--peers", *out, *arguments])
        return int(load("quality").main())

    return run


def test_the_quality_of_a_model_that_is_gone_is_not_told(
    quality: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        quality("--weights", str(tmp_path / "gone"))
    assert capsys.readouterr().err.splitlines()[-1].startswith("sspir evaluate: There is no folder")


@pytest.mark.slow
def test_quality_without_lpips_has_no_sheet(
    quality: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality() == 0
    assert "There is no sheet of pictures" in capsys.readouterr().err
    assert (tmp_path / "out" / "set14_light" / "per_image.csv").is_file()
    assert not (tmp_path / "out" / "sheet.jpg").exists()


def test_a_ratio_is_better_nearer_to_its_ideal() -> None:
    verdict, facts = load("bench_restore").verdict, describe(GradientRatio())
    first = np.linspace(0.9, 1.1, 8)
    assert verdict("gradient ratio", facts, first, first) == ""
    assert "gradient ratio worse by -" in verdict("gradient ratio", facts, first + 1, first)
    assert "gradient ratio better by +" in verdict("gradient ratio", facts, first, first - 0.5)
    assert "gmsd better by +0.500 to +0.500" in verdict("gmsd", describe(GMSD()), first, first + 0.5)


def line(objectives: ModuleType, image: int, method: str, lpips: float) -> dict[str, str]:
    """Values of a picture: LPIPS as told and all else equal."""
    values = {metric: f"{lpips + 0.001 * image if metric == 'lpips' else 1.0}" for metric in objectives.METRICS}
    return {"image": str(image), "method": method, **values}


def test_rows_are_compared_over_seeds_and_at_equal_cost(objectives: ModuleType, tmp_path: Path) -> None:
    options = SimpleNamespace(out=tmp_path, values=tmp_path / "values.csv", samples=320)
    for row, seed, budget, lpips, seconds, noise in (
        ("the start", 0, "samples", 0.6, 0, 0.9),
        ("pixel", 0, "samples", 0.5, 100, 0.9),
        ("pixel", 0, "seconds", 0.5, 100, 0.9),
        ("consistency", 0, "samples", 0.3, 400, 0.9),
        ("consistency", 1, "samples", 0.4, 400, 0.9),
        ("consistency", 0, "seconds", 0.7, 80, 0.1),
    ):
        found = [
            {"set": name, **line(objectives, image, method, value)}
            for name in objectives.SETS
            for image in range(7)
            for method, value in (("restored", lpips), ("noise@restored", noise))
        ]
        objectives.add(found, options, row=row, seed=seed, budget=budget, cpu_seconds=seconds)
    whole, equal = (tmp_path / "objectives.md").read_text().split("**The same CPU seconds", 1)
    same, level = "1.00 [+0.00, +0.00]", "1.000 [+0.000, +0.000]"
    better = "**0.353 [-0.150, -0.150]**"
    consistency = (
        f"| consistency | 2 | {same} | {level} | {better} | {level} | {same} | {same} | {level} | 400 | lpips |"
    )
    assert whole.count(consistency) == 3
    for text in (whole, equal):
        assert text.count("| pixel | 1 | 1.00 | 1.000 | 0.503 | 1.000 | 1.00 | 1.00 | 1.000 | 100 | lpips |") == 3
        assert text.count("0.603 [+0.100, +0.100]") == 3  # the start
    worse = "0.703 [+0.200, +0.200]"
    consistency = (
        f"| consistency | 1 | {same} | {level} | {worse} | {level} | {same} | {same} | {level} | 80 | nothing |"
    )
    assert equal.count(consistency) == 3
    assert "| consistency |" + " +0.00, +0.100, +0.000 |" * 3 in equal  # the last table: one seed minus the other
    assert equal.count("| pixel |") == 3  # which has one seed, and is not in it


def test_the_last_checkpoint_within_a_budget_is_kept(objectives: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (2, 4, 6, 20):
        (tmp_path / "checkpoints" / f"step-{step}.ckpt").touch()
    assert objectives.last_within(100, tmp_path, 400, 20) == 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-4.ckpt"]
    assert objectives.last_within(10, tmp_path, 400, 20) == 0


def test_a_row_whose_values_are_there_is_not_trained(
    objectives: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def train(row: str, folder: Path, *_: object) -> float:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        asked.append(f"train {folder.name}")
        return 50.0

    def measure(run: object, checkpoint: str, folder: Path, options: object) -> list[dict[str, str]]:
        asked.append(f"measure {folder.name} {checkpoint}")
        return [{"set": "RealSR", **line(objectives, 0, method, 0.5)} for method in ("restored", "noise@restored")]

    monkeypatch.setattr(objectives, "train", train)
    monkeypatch.setattr(objectives, "measure", measure)
    options = SimpleNamespace(out=tmp_path, values=tmp_path / "values.csv", samples=320)
    for _ in range(2):
        for row in ("the start", "pixel", "teacher"):
            objectives.fill(row, 0, options)
    of_start, of_pixel = ["measure the_start-320-s0 last"], ["train pixel-320-s0", "measure pixel-320-s0 last"]
    of_teacher = ["train teacher-320-s0", "measure teacher-320-s0 last"]
    assert asked == [*of_start, *of_pixel, *of_pixel, *of_teacher, *of_teacher]

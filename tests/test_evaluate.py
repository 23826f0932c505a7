import csv
import json
from pathlib import Path

import pytest

from sspir.config import compose_config
from sspir.errors import UserError
from sspir.evaluate import evaluate
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    tiny_run(folder, photo_folder, "trainer.max_steps=2")
    return folder


def test_a_benchmark_leaves_images_rows_and_a_summary(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    overrides = [
        f"run={run}",
        "benchmark=photos",
        "metric=fast",
        f"benchmark.photos.root={photo_folder}",
        f"out={tmp_path}",
    ]
    summary = evaluate(compose_config("evaluate", overrides))
    assert {"restored", "processor", "bicubic"} <= summary["methods"].keys()
    assert summary["methods"]["restored"]["psnr_y"]["n"] == 2
    assert json.loads((tmp_path / "summary.json").read_text())["methods"] == summary["methods"]
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert {(row["image"], row["method"]) for row in rows} >= {("0", "restored"), ("1", "bicubic")}
    assert {path.name for path in (tmp_path / "restored").iterdir()} == {"0.png", "1.png"}
    assert json.loads((tmp_path / "captions.json").read_text()).keys() == {"0", "1"}
    assert list((tmp_path / "wandb").rglob("*.wandb"))


def test_the_same_evaluation_gives_the_same_numbers(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    def scores(out: Path, *changes: str) -> dict:
        base = [
            f"run={run}",
            "benchmark=photos",
            "metric=fast",
            f"benchmark.photos.root={photo_folder}",
            "limit=1",
            "wandb=null",
        ]
        return evaluate(compose_config("evaluate", [*base, f"out={out}", *changes]))["methods"]["restored"]

    first = scores(tmp_path / "a")
    assert scores(tmp_path / "b") == first
    assert scores(tmp_path / "c", "seed=1") != first


def test_unknown_sampler_settings_are_named(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    overrides = [f"run={run}", "benchmark=photos", f"benchmark.photos.root={photo_folder}", f"out={tmp_path}"]
    with pytest.raises(UserError, match="stepps"):
        evaluate(compose_config("evaluate", [*overrides, "+sampler.stepps=3"]))

"""The ablation table of a sweep, from real runs and their evaluations."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from sspir.config.compose import compose_config
from sspir.evaluation.evaluate import evaluate
from sspir.report.ablation import Row, studies, validations
from sspir.report.collect import collect
from sspir.report.page import build
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A benchmark of three photos: fewer have no interval."""
    root = tmp_path_factory.mktemp("measured")
    for split in ("train", "val"):
        shutil.copytree(photo_folder / "train", root / split)
    return root


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path, measured: Path) -> Path:
    """Two variants of two seeds, and one of a single seed, each measured on three photos."""
    root = tmp_path_factory.mktemp("sweep")
    for variant, seeds in {"none": (0, 1), "no_rgb_loss": (0, 1), "start_noise": (1,)}.items():
        for seed in seeds:
            run = root / f"{variant}-s{seed}"
            tiny_run(run, photo_folder, f"ablation={variant}", f"seed={seed}", "trainer.max_steps=2")
            photos = ["benchmark=photos", f"benchmark.photos.root={measured}", "metric=fast", "wandb=null"]
            evaluate(compose_config("evaluate", [f"run={run}", *photos]))
    return root


def psnr(sweep: Path, run: str) -> dict[str, float]:
    (table,) = (sweep / run / "evaluation" / "photos").glob("*/per_image.csv")
    rows = csv.DictReader(table.open())
    return {row["image"]: float(row["psnr_y"]) for row in rows if row["method"] == "restored"}


@pytest.mark.slow
def test_a_sweep_becomes_an_ablation_table(sweep: Path, measured: Path) -> None:
    (study,) = studies(collect([sweep])[0])
    assert study.title == f"tiny on photos, last, benchmark.photos.root={measured}"
    rows: dict[str, Row] = {row.variant: row for row in study.rows["psnr_y"]}
    assert list(rows) == ["none", "no_rgb_loss", "start_noise"]
    assert [row.seeds for row in rows.values()] == [2, 2, 1]
    means = {
        name: [np.mean(list(psnr(sweep, f"{name}-s{seed}").values())) for seed in (0, 1)] for name in list(rows)[:2]
    }
    for name, values in means.items():
        assert rows[name].mean == pytest.approx(np.mean(values))
        assert rows[name].spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert rows["start_noise"].spread is None
    assert rows["none"].gain is None


@pytest.mark.thorough
def test_gains_are_paired_by_image_over_the_seeds_that_both_have(sweep: Path) -> None:
    (study,) = studies(collect([sweep])[0])
    rows = {row.variant: row for row in study.rows["psnr_y"]}
    full = {seed: psnr(sweep, f"none-s{seed}") for seed in (0, 1)}
    single = psnr(sweep, "start_noise-s1")
    gains = [single[image] - full[1][image] for image in single]
    gain = rows["start_noise"].gain
    assert gain is not None
    assert gain.gain.mean == pytest.approx(np.mean(gains))
    half = 4.3027 * np.std(gains, ddof=1) / 3**0.5  # Student's t of three photos
    assert [gain.gain.low, gain.gain.high] == pytest.approx([np.mean(gains) - half, np.mean(gains) + half])
    other = rows["no_rgb_loss"].gain
    assert other is not None
    assert other.gain.n == 3
    assert other.gain.mean == pytest.approx(rows["no_rgb_loss"].mean - rows["none"].mean)


@pytest.mark.thorough
def test_the_page_shows_table_plot_and_validation_over_seeds(sweep: Path) -> None:
    found = collect([sweep])
    page = build(found, "title", images=1, quality=50)
    study = page[page.index("Ablation: tiny on photos") : page.index("</section>", page.index("Ablation: tiny"))]
    for expected in ("no_rgb_loss", "start_noise", " ± ", "psnr_y: gain over none", "<svg", "<circle"):
        assert expected in study
    over_seeds = validations(found.runs)["tiny"]["val/psnr_y"]
    assert [(row.variant, row.seeds) for row in over_seeds] == [("none", 2), ("no_rgb_loss", 2), ("start_noise", 1)]
    ends = [run.curves["val/psnr_y"][-1][1] for run in found.runs if run.settings["variant"] == "none"]
    assert over_seeds[0].mean == pytest.approx(np.mean(ends))
    assert "tiny: last validation over seeds, mean ± standard deviation" in page


@pytest.mark.thorough
def test_results_of_one_variant_are_no_study(sweep: Path) -> None:
    assert studies(collect([sweep / "none-s0", sweep / "none-s1"])[0]) == []

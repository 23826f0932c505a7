import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra.utils import instantiate

from sspir.config import compose_config
from sspir.degradation import sample_seed
from sspir.errors import UserError
from sspir.evaluate import captions_of, evaluate
from sspir.images.io import read_image
from sspir.priors.captioner import Captioner, Images, NoCaption
from sspir.weights import load_pipeline
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    tiny_run(folder, photo_folder, "trainer.max_steps=2")
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> list[str]:
    """The overrides of a benchmark of two photos, of which the first has words beside it."""
    folder = tmp_path_factory.mktemp("captioned")
    shutil.copytree(photo_folder / "val", folder, dirs_exist_ok=True)
    (folder / "0.txt").write_text("a red house")
    return ["benchmark=set5", f"benchmark.photos.roots={folder}", "+benchmark.photos.captions=beside", "metric=fast"]


class Looking(Captioner):
    """Says the same of every photo; keeps what it was asked, and when it was closed."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...] | str] = []

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        self.calls += [tuple(image.shape) for image in images]
        return ["an old house"] * len(images)

    def close(self) -> None:
        self.calls.append("closed")


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


def test_photos_without_words_are_described_and_words_that_came_steer(
    run: Path, captioned: list[str], tmp_path: Path
) -> None:
    config = compose_config("evaluate", [f"run={run}", f"out={tmp_path}", "wandb=null", *captioned])
    evaluate(config)
    second = instantiate(config.benchmark)[1]
    pipeline = load_pipeline(run)
    said = pipeline.caption(second.lq, (48, 64))[0]
    assert said.startswith("a ")
    assert json.loads((tmp_path / "captions.json").read_text()) == {"0": "a red house", "1": said}
    wanted = pipeline.restore(second.lq, [said], (48, 64), [sample_seed(0, 0, "1.png")]).images[0]
    assert (read_image(tmp_path / "restored" / "1.png").tensor() - wanted).abs().max() <= 0.5 / 255 + 1e-6


def test_a_captioner_is_asked_where_no_words_came_and_is_freed(run: Path, captioned: list[str]) -> None:
    benchmark = instantiate(compose_config("evaluate", ["run=.", *captioned]).benchmark)
    pipeline = load_pipeline(run)
    pipeline.captioner = looking = Looking()
    assert captions_of(pipeline, benchmark, 2) == ["a red house", "an old house"]
    assert looking.calls == [(3, 48, 64), "closed"]
    pipeline.captioner = NoCaption()
    assert captions_of(pipeline, benchmark, 2) == ["", ""]

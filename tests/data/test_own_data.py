"""People's own photos with captions, own pairs, and both mixed, as the shipped configurations take them."""

import logging
from pathlib import Path

import pytest
import torch

from sspir.errors import UserError
from sspir.training.module import RestorationModule
from sspir.training.run import find_checkpoint
from tests.pipelines import write_photo
from tests.runs import OVERRIDES, compose_config, train


def run(folder: Path, *overrides: str) -> dict[str, float]:
    own = [override for override in OVERRIDES if not override.startswith("dataset.")]
    short = ["trainer.max_steps=3", "callbacks.panels=null", "data.passes=2", "captioner=precomputed"]
    return train(compose_config("train", [*own, *short, f"folder={folder}", *overrides]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("train", "val"):
        for index in range(3):
            write_photo(tmp_path / name / f"{index}.png", 48, 40, index)
            write_photo(tmp_path / f"{name}-lq" / f"{index}.png", 12, 10, index)
            (tmp_path / name / f"{index}.txt").write_text(f"photo {index} of {name}")
    return tmp_path


CROPS = ["dataset.train.crop.size=32", "dataset.validation.{}.crop.size=32"]


SMALL = {
    "train.lq": "train-lq",
    "train.hq": "train",
    "validation.pairs.lq": "val-lq",
    "validation.pairs.hq": "val",
}


def test_own_photos_with_captions(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    embed = RestorationModule.semantics

    def watched(self: RestorationModule, batch: object, *others: object) -> object:
        seen.extend(batch.captions)  # type: ignore[attr-defined]
        return embed(self, batch, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(RestorationModule, "semantics", watched)
    places = [f"dataset.train.roots={photos}/train", f"dataset.validation.photos.roots={photos}/val"]
    done = run(tmp_path / "run", "dataset=folder", *places, *(crop.format("photos") for crop in CROPS))
    assert done["val/psnr_y"] > 0
    assert set(seen) <= {f"photo {index} of train" for index in range(3)}
    assert seen


@pytest.mark.parametrize("dataset", ["pairs", "pairs_and_photos"])
def test_own_pairs(dataset: str, photos: Path, tmp_path: Path) -> None:
    of = "dataset.train" if dataset == "pairs" else "dataset.pairs"
    places = [f"{of}.lq={photos}/train-lq", f"{of}.hq={photos}/train"]
    places += [f"dataset.validation.pairs.lq={photos}/val-lq", f"dataset.validation.pairs.hq={photos}/val"]
    places += [crop.format("pairs") for crop in CROPS]
    if dataset == "pairs_and_photos":
        places += [f"dataset.photos.roots={photos}/train", "dataset.train.weights=[2,1]"]
    assert run(tmp_path / "run", f"dataset={dataset}", *places)["step"] == 3


@pytest.mark.thorough
def test_the_shipped_model_goes_on_with_own_pairs_and_says_which_do_not_fit(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photo(photos / "train-lq" / "2.png", 12, 10, seed=9)  # of another scene
    places = [f"dataset.pairs.lq={photos}/train-lq", f"dataset.pairs.hq={photos}/train"]
    places += [f"dataset.photos.roots={photos}/train", "dataset.train.crop.size=32", "+data.max_broken=0.5"]
    places += ["dataset.validation=null", "workers=0", "batch_size=2", "logger=jsonl", "callbacks.progress=null"]
    short = ["trainer.max_steps=3", "trainer.precision=32-true", f"folder={tmp_path}/run", "data.passes=1"]
    with caplog.at_level(logging.WARNING):
        assert train(compose_config("train", ["experiments=finetune_pairs", *places, *short]))["step"] == 3
    (told,) = [record.getMessage() for record in caplog.records if "left out in this epoch" in record.getMessage()]
    assert "1 of 6 photos" in told
    assert f"{photos}/train/2.png is shifted by" in told


def test_pairs_smaller_than_their_crop_are_refused_before_anything_is_trained(photos: Path, tmp_path: Path) -> None:
    places = [f"dataset.{part}={photos}/{place}" for part, place in SMALL.items()]
    with pytest.raises(UserError, match=r"40x48 pixels at scale 4: set dataset.validation.pairs.crop.size to a multi"):
        run(tmp_path / "run", "dataset=pairs", *places, "dataset.train.crop.size=32")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.thorough
def test_without_validation_the_last_checkpoint_is_the_best(photos: Path, tmp_path: Path) -> None:
    done = run(
        tmp_path / "run", f"dataset.train.root={photos}", "dataset.train.crop.size=32", "dataset.validation=null"
    )
    assert not any(name.startswith("val/") for name in done)
    last, best = (find_checkpoint(tmp_path / "run", name) for name in ("last", "best"))
    assert last.samefile(best)
    assert torch.load(best, weights_only=True)["global_step"] == 3

"""Batches that a training counts: places in epochs, and steps that are validated."""

import json
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback

from sspir.errors import UserError
from sspir.training.fit import train
from tests.runs import tiny_config

QUICK = ["batch_size=1", "data.passes=4", "module.structure_steps=0", "trainer.limit_val_batches=1"]


class Seen(Callback):
    """Remembers the epoch, the name and the brightness of every training image."""

    def __init__(self) -> None:
        self.images: list[tuple[int, Any]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images.append((trainer.current_epoch, batch.ids[0], batch.hq.sum().item()))


def leg(folder: Path, photos: Path, steps: int, *changes: str) -> list[tuple[int, Any]]:
    seen = Seen()
    train(tiny_config(folder, photos, *QUICK, f"trainer.max_steps={steps}", *changes), callbacks=[seen])
    return seen.images


def validated(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "val/psnr_y" in line]


@pytest.fixture(scope="module")
def whole(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, Any]]:
    return leg(tmp_path_factory.mktemp("batches") / "run", photo_folder, 17, "trainer.limit_val_batches=0")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("legs", "left_out", "steps"),
    [
        ([(1, 4), (2, 8)], 0, [2, 4, 6, 8]),
        pytest.param([(2, 3), (1, 6)], 0, [2, 3, 4, 6], marks=pytest.mark.slow),  # 3 as the last of its leg
        pytest.param([(1, 11), (5, 12)], 1, [2, 4, 6, 8, 10, 11, 12], marks=pytest.mark.slow),  # two steps in an epoch
        pytest.param([(1, 12), (5, 13)], 0, [2, 4, 6, 8, 10, 12, 13], marks=pytest.mark.slow),
        ([(5, 2), (1, 6)], 2, [2, 4, 6]),
    ],
)
def test_a_run_goes_on_at_its_place_when_other_batches_are_accumulated(
    legs: list[tuple[int, int]], left_out: int, steps: list[int],
    photo_folder: Path, tmp_path: Path, whole: list[tuple[int, Any]],
) -> None:  # fmt: skip
    images: list[tuple[int, Any]] = []
    for accumulated, until in legs:
        images += leg(tmp_path, photo_folder, until, f"trainer.accumulate_grad_batches={accumulated}")
    expected = [*whole[: 12 - left_out], *whole[12:]]
    assert images == expected[: len(images)]
    assert validated(tmp_path) == steps


@pytest.mark.thorough
def test_a_place_amid_a_step_is_refused_before_the_run_is_touched(photo_folder: Path, tmp_path: Path) -> None:
    leg(tmp_path, photo_folder, 3, "trainer.limit_val_batches=0")
    before = (tmp_path / "summary.json").read_bytes()
    with pytest.raises(UserError, match=r"done 3 batches .* no whole steps of trainer.accumulate_grad_batches=2; give"):
        leg(tmp_path, photo_folder, 4, "trainer.limit_val_batches=0", "trainer.accumulate_grad_batches=2")
    assert (tmp_path / "summary.json").read_bytes() == before


@pytest.mark.thorough
def test_a_share_of_an_epoch_is_validated_after_whole_steps(photo_folder: Path, tmp_path: Path) -> None:
    share = ["trainer.val_check_interval=0.25", "trainer.check_val_every_n_epoch=1"]  # 3 of 12 batches
    leg(tmp_path, photo_folder, 4, "trainer.accumulate_grad_batches=2", *share)
    assert validated(tmp_path) == [1, 2, 3, 4]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("trainer.val_check_interval='00:00:10:00'", "is no number; give steps"),
        ("+trainer.limit_train_batches=5", "=5 ends an epoch after 5 batches"),
    ],
)
def test_what_would_end_amid_a_step_is_refused(change: str, sentence: str, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        leg(tmp_path, photo_folder, 4, "trainer.accumulate_grad_batches=2", change)

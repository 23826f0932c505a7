import itertools
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs

from sspir.errors import UserError
from sspir.training.fit import train
from sspir.training.schedule import cosine, rate_at, say_rate
from tests.runs import tiny_config


def rates(**settings: float) -> list[float]:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine(optimizer, num_warmup_steps=10, num_training_steps=100, **settings)
    found = []
    for _ in range(101):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_one_cosine_rises_and_falls_to_nothing() -> None:
    found = rates()
    assert found[:11] == pytest.approx([0.2 * step for step in range(11)])
    assert found[55] == pytest.approx(1.0)
    assert found[100] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(found[10:]))


def test_the_second_rise_begins_where_the_first_has_come_to_nothing() -> None:
    found = rates(structure_steps=60, second=0.5)
    assert found[10] == pytest.approx(2.0)
    assert found[59] < 0.01
    assert found[60] == pytest.approx(0.0)
    assert found[70] == pytest.approx(1.0)
    assert found[85] == pytest.approx(0.5)
    assert found[100] == pytest.approx(0.0)


def in_turn(optimizer: torch.optim.Optimizer) -> torchs.SequentialLR:
    parts = [torchs.ConstantLR(optimizer, 0.1, 2), torchs.ExponentialLR(optimizer, 0.9)]
    return torchs.SequentialLR(optimizer, parts, [2])


@pytest.mark.parametrize(
    "schedule",
    [
        partial(cosine, num_warmup_steps=2, num_training_steps=8),
        partial(torchs.StepLR, step_size=2, gamma=0.5),
        partial(torchs.CosineAnnealingLR, T_max=8),
        partial(torchs.OneCycleLR, max_lr=1.0, total_steps=8),
        in_turn,
    ],
)
def test_a_rate_is_told_as_training_comes_to_it(schedule: Any) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)
    scheduler = schedule(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(7):
            told = rate_at(step, partial(SGD, lr=2.0, momentum=0.9), schedule)
            assert told == pytest.approx(optimizer.param_groups[0]["lr"]), step
            optimizer.step()
            scheduler.step()


TORCHS = "torch.optim.lr_scheduler."


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("schedule", "length", "sentence"),
    [
        ({"_target_": f"{TORCHS}ReduceLROnPlateau"}, "trainer.max_steps=4", "Plateau, which asks for a metric"),
        (
            {"_target_": f"{TORCHS}OneCycleLR", "max_lr": 1.0, "total_steps": 3},
            "trainer.max_steps=4",
            "ends at step 3, before the training; set schedule.total_steps=4",
        ),
        (
            {"_target_": f"{TORCHS}OneCycleLR", "max_lr": 1.0, "total_steps": 20},
            "trainer.max_epochs=2",
            "total_steps=24",  # an epoch has 24 photos, two at a time
        ),
    ],
)
def test_a_schedule_that_cannot_be_stepped_to_the_end_is_refused(
    schedule: dict[str, Any], length: str, sentence: str, photo_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, photo_folder, "data.passes=8", "trainer.max_steps=-1", length)
    config.schedule = {**schedule, "_partial_": True}
    with pytest.raises(UserError, match=sentence):
        train(config)


@pytest.mark.parametrize("schedule", ["cosine", {"_target_": f"{TORCHS}StepLR", "step_size": 1}])
def test_a_schedule_that_is_made_at_once_is_refused(schedule: Any, photo_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, photo_folder)
    config.schedule = schedule
    with pytest.raises(UserError, match=r"schedule is no class that is made later; set schedule\._target_"):
        train(config)


COSINE = {"_target_": "sspir.training.cosine", "num_warmup_steps": 2, "num_training_steps": 8, "_partial_": True}
LONGER = {**COSINE, "num_training_steps": 20}
STEPPED = {"_target_": f"{TORCHS}StepLR", "step_size": 1, "_partial_": True}


@pytest.mark.parametrize(
    ("before", "now", "remedy"),
    [
        (COSINE, LONGER, "; schedule.after=hold goes on"),
        (COSINE, None, "; the schedule of before with schedule.after=hold goes on"),
        (None, COSINE, "; schedule=null goes on at the rate that it had."),
        (STEPPED, COSINE, "is another one now."),
    ],
)
def test_what_is_said_of_a_rate_that_jumps_fits_both_schedules(
    before: dict[str, Any] | None, now: dict[str, Any] | None, remedy: str,
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = tiny_config(tmp_path, photo_folder)
    old = {**OmegaConf.to_container(config, resolve=True), "schedule": before}
    config.schedule = now
    say_rate(old, config, 6)
    assert remedy in caplog.text

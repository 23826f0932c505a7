import itertools
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs

from sspir.training.schedule import cosine, rate_at


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

import itertools

import pytest
import torch

from sspir.training.schedule import cosine


def rates(**settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
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

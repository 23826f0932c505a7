"""Schedules of the learning rate."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sspir.errors import UserError
from sspir.numbers import LIMIT


def cosine(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    structure_steps: int = 0,
    second: float = 1.0,
    after: str = "zero",
) -> LambdaLR:
    """Linear warm-up and a cosine to zero: for the Processor's image first, where it is trained alone, then for all.

    Args:
        optimizer: whose rate is the height of the first peak.
        num_warmup_steps: of each rise.
        num_training_steps: of all.
        structure_steps: where the rate has come to zero and rises again; 0 for a single cosine.
        second: height of the second peak over the first.
        after: what follows the last of the steps: "zero", or "hold" for the rate of that step. A run that goes on with
            "hold" and a larger `trainer.max_steps` keeps the schedule that it had.

    Raises:
        UserError: `after` is not known, or a number is out of range.
    """
    if num_training_steps < 1:  # such as -1, of a training that ends by epochs or time
        raise UserError(
            f"schedule.num_training_steps={num_training_steps} is no length of a cosine; give trainer.max_steps, or "
            f"the steps that the run will make as schedule.num_training_steps, or keep the rate by optimizer=adamw."
        )
    LIMIT.require("schedule.num_warmup_steps", num_warmup_steps)
    if after not in ("zero", "hold"):
        raise UserError(f"schedule.after={after} is not known; choose zero or hold.")
    last = num_training_steps - 1 if after == "hold" else num_training_steps
    return LambdaLR(
        optimizer,
        partial(
            _factor, warmup=num_warmup_steps, steps=num_training_steps, border=structure_steps, second=second, last=last
        ),
    )


def rate_at(
    step: int, optimizer: Callable[[list[torch.nn.Parameter]], Optimizer], schedule: Callable[[Optimizer], Any] | None
) -> float:
    """The learning rate that an optimizer step is made with.

    Args:
        step: from 0.
        optimizer: makes the optimizer.
        schedule: makes its schedule, whose rate is a function of the step; None keeps the optimizer's.
    """
    trial = optimizer([torch.nn.Parameter(torch.zeros(1))])
    if schedule is not None:
        scheduler = schedule(trial)
        trial.step()  # or the schedule warns
        scheduler.last_epoch = step - 1
        scheduler.step()
    return float(trial.param_groups[0]["lr"])


def _factor(step: int, warmup: int, steps: int, border: int, second: float, last: int) -> float:
    """The rate at a step over the first peak's; `border` is the step at which the second cosine begins."""
    step = min(step, last)
    height, start, end = (1.0, 0, border) if step < border else (second if border else 1.0, border, steps)
    done = step - start
    if done < warmup:
        return height * done / warmup
    return height * (0.5 + 0.5 * math.cos(math.pi * (done - warmup) / max(1, end - start - warmup)))

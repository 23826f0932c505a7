"""Schedules of the learning rate."""

import logging
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from sspir.config.trust import check_record, present_record, targets
from sspir.errors import UserError
from sspir.moved import named
from sspir.numbers import LIMIT

log = logging.getLogger(__name__)


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
        schedule: makes its schedule; None keeps the optimizer's.

    Returns:
        Of its first group of parameters.
    """
    trial = optimizer([torch.nn.Parameter(torch.zeros(1))])
    if schedule is not None:
        advance(schedule(trial), step)
    return float(trial.param_groups[0]["lr"])


def advance(scheduler: LRScheduler, steps: int) -> None:
    """Bring a new schedule, and its optimizer's rates, to where they are after some steps; no weight changes.

    Most of torch's schedules make a rate of the one before, so that all steps are made; a `LambdaLR` needs none.
    """
    if steps and isinstance(scheduler, LambdaLR):
        scheduler.last_epoch, steps = steps - 1, 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*`optimizer.step\(\)`")  # there are no updates in between
        for _ in range(steps):
            scheduler.step()


class OtherSchedule(Callback):
    """Puts a run that goes on with another schedule where that is at the run's step.

    Lightning would go on with the settings of the old one, begin one where there was none, and keep the last rate of
    one that is gone.
    """

    def __init__(self) -> None:
        self.other = False

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Compare the schedules; the state of another one is left out, which a new one may not take."""
        self.other = not _same_schedule(present_record(checkpoint["config"]), module.config)
        if self.other:
            checkpoint["lr_schedulers"] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Set the rates, and what else a schedule sets of an optimizer, after Lightning has loaded those of before."""
        if not self.other:
            return
        made = module.configure_optimizers()
        trial = made if module.schedule is None else made["optimizer"]
        if module.schedule is not None:
            scheduler = made["lr_scheduler"]["scheduler"]
            advance(scheduler, trainer.global_step)
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(scheduler.state_dict())
        for group, others in zip(trainer.optimizers[0].param_groups, trial.param_groups, strict=True):
            group.update({name: value for name, value in others.items() if name != "params"})


def require_partial(config: DictConfig) -> None:
    """Refuse an optimizer or a schedule that would be made before there is anything to step.

    Raises:
        UserError: see above.
    """
    for name in ("optimizer", "schedule"):
        part = config[name]
        target = str(part.get("_target_") or "") if isinstance(part, DictConfig) else ""
        made_now = target.startswith("torch.optim.") and not part.get("_partial_")
        if part is not None and (not target or made_now):
            raise UserError(
                f"{name} is no class that is made later; set {name}._target_ and {name}._partial_=true, as the files "
                f"of conf/optimizer do, which optimizer=NAME takes."
            )


def require_optimizer(module: Any, name: str, steps: float) -> None:
    """Refuse settings that the optimizer or its schedule does not take, before Lightning comes to make them.

    Args:
        module: of the training.
        name: of the optimizer's class.
        steps: that the training makes at most.

    Raises:
        UserError: one of them cannot be made, or the schedule cannot be stepped as often.
    """
    try:
        optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(1))])
        schedule = module.schedule(optimizer) if module.schedule is not None else None
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer ({name}), or its schedule, cannot be made: {error}.") from error
    if isinstance(schedule, ReduceLROnPlateau):
        raise UserError("schedule is a ReduceLROnPlateau, which asks for a metric at every step; choose another one.")
    if isinstance(schedule, OneCycleLR) and schedule.total_steps < steps < math.inf:
        end = schedule.total_steps
        raise UserError(f"schedule ends at step {end}, before the training; set schedule.total_steps={steps}.")


def say_rate(before: dict[str, Any], config: DictConfig, step: int) -> None:
    """Say that the learning rate jumps, where another schedule goes on from a step of the old one.

    Nothing is said where the old one is refused today.

    Args:
        before: the configuration of the old one.
        config: of the training.
        step: that comes next, from 0.

    Raises:
        UserError: the new schedule is refused.
    """
    before = present_record(before)
    now: Any = OmegaConf.to_container(config, resolve=True)
    if step == 0 or _same_schedule(before, now):
        return
    own = [target for _, target in targets(config)]
    check_record({key: before[key] for key in ("optimizer", "schedule")}, Path(config.folder), own)
    made = partial(instantiate, _convert_="all")  # as the module is
    new = rate_at(step, made(config.optimizer), made(config.schedule))
    try:
        old = rate_at(step - 1, made(before["optimizer"]), made(before["schedule"]))
    except UserError:
        return
    if abs(new - old) > 0.1 * max(new, old):
        log.warning(
            "The learning rate jumps from %.2g to %.2g at step %d, as the schedule is another one now%s.",
            old, new, step, _remedy(before["schedule"], now["schedule"]),
        )  # fmt: skip


def _remedy(before: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """How a run would go on at the rate that it had come to, where there is such a way."""
    if before is None:
        return "; schedule=null goes on at the rate that it had"
    cosine_before, cosine_now = ((each or {}).get("_target_") == "sspir.training.cosine" for each in (before, now))
    if not cosine_before:
        return ""
    kept = "" if cosine_now else "the schedule of before with "
    return f"; {kept}schedule.after=hold goes on at the rate that it had come to"


def _same_schedule(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return bool(named(before.get("schedule")) == named(now["schedule"]))


def _factor(step: int, warmup: int, steps: int, border: int, second: float, last: int) -> float:
    """The rate at a step over the first peak's; `border` is the step at which the second cosine begins."""
    step = min(step, last)
    height, start, end = (1.0, 0, border) if step < border else (second if border else 1.0, border, steps)
    done = step - start
    if done < warmup:
        return height * done / warmup
    return height * (0.5 + 0.5 * math.cos(math.pi * (done - warmup) / max(1, end - start - warmup)))

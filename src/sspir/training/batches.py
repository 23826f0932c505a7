"""Batches that a training counts: what Lightning refuses of them after its start is refused before it."""

import math
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

from sspir.errors import UserError


def interval_of(trainer: DictConfig) -> Any:
    """Batches between validations, which Lightning counts, of optimizer steps; a share of an epoch stays one.

    Raises:
        UserError: it is 0, or a time, after which no run that goes on would validate at the same steps.
    """
    if (steps := trainer.get("val_check_interval")) == 0:
        raise UserError("trainer.val_check_interval=0 is no interval; trainer.limit_val_batches=0 validates never.")
    if not isinstance(steps, int | float | None):
        raise UserError(f"trainer.val_check_interval={steps} is no number; give steps, or a share of an epoch.")
    return steps * trainer.get("accumulate_grad_batches", 1) if isinstance(steps, int) else steps


def require_training(trainer: DictConfig) -> None:
    """Refuse settings of Lightning's with which nothing, or nothing that is kept, would be trained.

    Raises:
        UserError: to be raised before a folder is made.
    """
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise UserError(f"trainer.{name}=0 trains nothing; give more, or leave it out.")
    if trainer.get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run keeps nothing; for a trial set trainer.max_steps=1, and a folder=FOLDER.")


def require_batches(trainer: pl.Trainer, data: Any) -> None:
    """Refuse a training or a validation without a batch, and epochs that end amid a step or before a validation.

    Args:
        trainer: of the training; where it validates after a share of an epoch, that becomes a number of whole steps.
        data: its `RestorationDataModule`.

    Raises:
        UserError: to be raised before a run is touched.
    """
    data.trainer = trainer
    epoch, interval = _epoch(trainer, data), trainer.val_check_interval
    if epoch % (accumulated := trainer.accumulate_grad_batches):
        raise UserError(
            f"trainer.limit_train_batches={trainer.limit_train_batches} ends an epoch after {epoch} batches, amid a "
            f"step of trainer.accumulate_grad_batches={accumulated}; give a multiple of {accumulated}."
        )
    if isinstance(interval, float) and interval < 1:
        trainer.val_check_interval = max(1, int(epoch * interval) // accumulated) * accumulated
    for loader in data.val_dataloader():
        _taken("val", len(loader), trainer)
    in_epochs = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    if in_epochs and isinstance(interval, int) and interval > epoch:
        raise UserError(
            f"An epoch of {epoch} batches ends before the validation that comes every {interval}: lower "
            f"trainer.val_check_interval, or count beyond epochs by trainer.check_val_every_n_epoch=null."
        )


class Recount(Callback):
    """Has a run go on at its place in the epoch, and validate at the same steps, when other batches are accumulated."""

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct Lightning's counts, and those of the data, which have been loaded by now."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        recount(checkpoint, trainer, data)
        place = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]
        data.load_state_dict({"epoch": checkpoint["epoch"], "batch": place})


def recount(checkpoint: dict[str, Any], trainer: pl.Trainer, data: Any) -> None:
    """Count a checkpoint's batches as this training counts, whose steps and epochs may have another number of them.

    Args:
        checkpoint: in which they are changed.
        trainer: of the training.
        data: its `RestorationDataModule`.

    Raises:
        UserError: the place in the epoch lies amid a step of this training.
    """
    counts, epoch = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"], _epoch(trainer, data)
    done, accumulated = counts["current"]["processed"], trainer.accumulate_grad_batches
    before = checkpoint["config"]["trainer"].get("accumulate_grad_batches", 1)
    if counts["is_last_batch"] or done >= epoch:
        counts["is_last_batch"], done = True, epoch
    elif before != accumulated and done % accumulated:
        raise UserError(
            f"The run has done {done} batches of its epoch, no whole steps of trainer.accumulate_grad_batches="
            f"{accumulated}; give a divisor of {done}, or train on with {before} to a step where it fits."
        )
    steps = checkpoint["global_step"] * accumulated
    for part, batches in (("current", done), *([("total", steps)] if before != accumulated else [])):
        more = batches - counts[part]["processed"]
        counts[part] = {count: number + more for count, number in counts[part].items()}


def planned_steps(trainer: pl.Trainer, data: Any) -> float:
    """Optimizer steps that a training makes at most, by its number of steps or of epochs; infinity without both."""
    most = trainer.max_steps if trainer.max_steps > 0 else math.inf
    if (epochs := trainer.max_epochs or 0) > 0:
        most = min(most, epochs * _epoch(trainer, data) // trainer.accumulate_grad_batches)
    return most


def _epoch(trainer: pl.Trainer, data: Any) -> int:
    """Batches of an epoch on each process."""
    return _taken("train", len(data.train_dataloader()), trainer)


def _taken(kind: str, batches: int, trainer: pl.Trainer) -> int:
    """How many batches of a loader the trainer takes."""
    limit: int | float = getattr(trainer, f"limit_{kind}_batches")
    taken = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if limit and not taken:
        raise UserError(f"trainer.limit_{kind}_batches={limit} of {batches} batches is less than one; raise it.")
    return taken

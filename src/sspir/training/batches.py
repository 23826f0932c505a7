"""Batches that a training counts: what Lightning refuses of them after its start is refused before it."""

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from sspir.errors import UserError


def interval_of(trainer: DictConfig) -> Any:
    """Batches between validations, which Lightning counts, of optimizer steps; a share of an epoch stays one.

    Raises:
        UserError: it is 0.
    """
    if (steps := trainer.get("val_check_interval")) == 0:
        raise UserError("trainer.val_check_interval=0 is no interval; trainer.limit_val_batches=0 validates never.")
    return steps * trainer.get("accumulate_grad_batches", 1) if isinstance(steps, int) else steps


def require_batches(trainer: pl.Trainer, data: Any) -> None:
    """Refuse a training or a validation without a batch, and validations in epochs that are too short for one.

    Args:
        trainer: of the training.
        data: its `RestorationDataModule`.

    Raises:
        UserError: to be raised before a run is touched.
    """
    data.trainer = trainer
    epoch, interval = _taken("train", len(data.train_dataloader()), trainer), trainer.val_check_interval
    for loader in data.val_dataloader():
        _taken("val", len(loader), trainer)
    in_epochs = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    if in_epochs and isinstance(interval, int) and interval > epoch:
        raise UserError(
            f"An epoch of {epoch} batches ends before the validation that comes every {interval}: lower "
            f"trainer.val_check_interval, or count beyond epochs by trainer.check_val_every_n_epoch=null."
        )


def _taken(kind: str, batches: int, trainer: pl.Trainer) -> int:
    """How many batches of a loader the trainer takes."""
    limit: int | float = getattr(trainer, f"limit_{kind}_batches")
    taken = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if limit and not taken:
        raise UserError(f"trainer.limit_{kind}_batches={limit} of {batches} batches is less than one; raise it.")
    return taken

"""Callbacks of training: averaged weights, saving, stopping early."""

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from sspir.files import led
from sspir.numbers import LIMIT
from sspir.training.checkpoint import LAST, VALIDATION_DUE, link_or_copy
from sspir.training.parts import trained_weights
from sspir.training.run import is_first_process
from sspir.training.strategy import full_tensor, shared_as

log = logging.getLogger(__name__)


class EMA(Callback):
    """Exponential moving average of the trained weights: validation and users get it, training goes on without it.

    Args:
        decay: per step; in step n at most (1 + n) / (10 + n), so that the first weights are forgotten.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}
        self.steps = 0
        self._averages: list[Tensor] = []
        self._weights: list[Tensor] = []  # share the network's memory, which stays where it is

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start with the weights as they are, or go on with the average of a checkpoint, which was read before."""
        current = _trained(module)
        self.average = {key: shared_as(self.average.get(key, value), value).clone() for key, value in current.items()}
        self._averages, self._weights = list(self.average.values()), list(current.values())

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Average once per optimizer step."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._weights, weight)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the average in the network."""
        if self.average:
            self.raw = {key: value.clone() for key, value in _trained(module).items()}
            _assign(module, self.average)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the raw weights back."""
        if self.raw:
            _assign(module, self.raw)
            self.raw = {}

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Put the raw weights back before anything saves them."""
        self.on_validation_end(trainer, module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the average beside the raw weights; a checkpoint within validation holds the raw ones too."""
        checkpoint["ema"] = {key: full_tensor(value) for key, value in self.average.items()}
        if self.raw:
            checkpoint["state_dict"] |= {key: full_tensor(value) for key, value in self.raw.items()}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the checkpoint's average."""
        self.average = dict(checkpoint.get("ema", {}))
        self.steps = checkpoint["global_step"]


def _trained(module: Any) -> dict[str, Tensor]:
    """Name in the module -> trained weight, which shares its memory."""
    return {key: parameter.detach() for key, parameter in trained_weights(module).items()}


def _assign(module: Any, values: dict[str, Tensor]) -> None:
    for key, parameter in _trained(module).items():
        parameter.copy_(values[key])


class SaveAtEnd(Checkpoint):
    """Validates and saves the last step, whatever ends the training, and saves when a signal stops it.

    The checkpoint is written within the step, as Lightning's count of batches has moved on after the fit. It is written
    before the last validation, which may be long, and again with its results. A signal may come amid gradients that are
    accumulated, which no checkpoint holds: then the last whole step is saved, and nothing where it came within an
    update; in a single process Ctrl-C waits for the end of that step. Other exceptions, such as for a loss that is not
    a number, leave the last good checkpoint as it is.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / LAST
        self._updated = False  # within this batch
        self._whole: dict[str, int] = {}  # batches, of all and of this epoch, up to the last step; none amid an update
        self._steps = 0  # by Lightning's count for loggers, up to there
        self._last = False  # whether it was an epoch's last batch
        self._stopped = False
        self._interrupted = False  # by Ctrl-C, amid a step
        self._due = False  # whether the step that the run goes on from is still to be validated

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validate the step that a run goes on from where a stop prevented that; keep Lightning from saving it again.

        It would save after the next batch, amid gradients that are accumulated, which no checkpoint holds.
        """
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
                callback._last_global_step_saved = trainer.global_step
        if self._due:
            self._due = False
            self._validate(trainer)
        own = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread() and not own:
            signal.signal(signal.SIGINT, self._on_interrupt)  # Lightning takes it back

    def _validate(self, trainer: pl.Trainer) -> None:
        """Validate the step that a run goes on from, as Lightning would have after it."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        loop.reset_restart_stage()
        trainer.validating = True
        loop.run()
        trainer.training = True

    def _on_interrupt(self, number: int, frame: Any) -> None:
        """Stop at once where there is a whole step to save, else after this one.

        Several processes would stop after different steps, and wait for each other for ever: they stop at once.
        """
        if self._whole or self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        log.warning("Ctrl-C: stops when this step is whole; once more stops at once, without it.")

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Forget the last step: it was of another epoch, whose batches Lightning no longer counts."""
        self._whole = {}

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Stop if Ctrl-C was pressed amid the last step, which is whole and logged by now."""
        self._stop_if_interrupted()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop while Lightning counts this epoch's batches."""
        self._stop_if_interrupted()

    def _stop_if_interrupted(self) -> None:
        if self._interrupted and self._whole:
            raise KeyboardInterrupt

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Note that the weights are about to change."""
        self._updated, self._whole = True, {}

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Save after the last step, and ask Lightning to stop, which makes it validate first."""
        if self._updated:
            loop = trainer.fit_loop.epoch_loop
            self._whole = {part: getattr(loop.batch_progress, part).processed for part in ("total", "current")}
            self._updated, self._steps = False, loop._batches_that_stepped
            self._last = loop.batch_progress.is_last_batch
        last_epoch = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or last_epoch:
            trainer.should_stop = True
        self._save_if_stopping(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save after the last validation, which may itself have ended the training."""
        self._save_if_stopping(trainer)

    def _save_if_stopping(self, trainer: pl.Trainer) -> None:
        if trainer.should_stop:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark a checkpoint that is written within a validation as one of the step before the validation.

        Lightning goes on exactly from a checkpoint of a step; after one of a validation it counts a step twice or not
        at all. Whether the step's validation is still to come is noted.
        """
        if trainer.validating and not self._stopped:
            for part in ("total", "current"):
                counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][part]
                counts["completed"] = counts["processed"] - 1
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        made = module.validated_at == trainer.global_step
        due = not made and fetcher is not None and loop._should_check_val_fx(fetcher)
        checkpoint[VALIDATION_DUE] = bool(due or (trainer.validating and self._stopped))

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have Lightning know the checkpoints of a run whose folder was moved, and what the best one has reached."""
        self._due = checkpoint.get(VALIDATION_DUE, False)
        here = str(self.path.parent.resolve())
        for key, state in checkpoint.get("callbacks", {}).items():
            if Path(there := str(state.get("dirpath"))).name == self.path.parent.name:
                checkpoint["callbacks"][key] = led(state, there, here)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Save when stopped by SIGTERM or by Ctrl-C."""
        if isinstance(exception, SIGTERMException | KeyboardInterrupt) and self._whole:
            self._stopped = True
            loop = trainer.fit_loop.epoch_loop
            for part, batches in self._whole.items():  # the counts as they were when the last step had been made
                counts = getattr(loop.batch_progress, part)
                counts.ready = counts.started = counts.processed = batches
                counts.completed = batches - 1
            loop._batches_that_stepped, loop.batch_progress.is_last_batch = self._steps, self._last
            trainer.save_checkpoint(self.path, weights_only=False)


class Milestones(Checkpoint):
    """Keeps a checkpoint `step-N.ckpt` of every so many steps, which nothing removes.

    Args:
        folder: of the checkpoints.
        every: optimizer steps; 0 keeps none.
    """

    def __init__(self, folder: str, every: int) -> None:
        self.folder, self.every = Path(folder), LIMIT.require("keep_every", every)
        self.step = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin with the step that comes; of the one that a run goes on from, a kill may have left no milestone."""
        self.step = trainer.global_step
        if self._is_due() and is_first_process() and not self._path().exists():
            link_or_copy(self.folder / LAST, self._path())

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Save once per step that is a multiple."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if self._is_due():
            trainer.save_checkpoint(self._path(), weights_only=False)

    def _is_due(self) -> bool:
        return self.step > 0 and self.every > 0 and self.step % self.every == 0

    def _path(self) -> Path:
        return self.folder / f"step-{self.step}.ckpt"


class EarlyStopping(LightningEarlyStopping):
    """Ends a training whose validation no longer improves; the metric says whether higher or lower is better.

    Args:
        monitor: name of the metric: METRIC or SET/METRIC.
        patience: validations without a better value that end the training; a run may go on with a larger patience.
        min_delta: by how much a value must be better to count, in the metric's unit.
    """

    def __init__(self, monitor: str, patience: int = 10, min_delta: float = 0.0) -> None:
        super().__init__(f"val/{monitor}", patience=patience, check_on_train_epoch_end=False)
        self.metric, self.delta = monitor, min_delta

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Take the direction from the module's metric; the base class wants it before there is a module."""
        if stage != "fit":  # which has begun to count
            return
        sets = trainer.datamodule.validation_names  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        self.mode = pl_module.validation.good_end(self.metric, sets)
        sign = 1 if self.mode == "max" else -1
        self.min_delta, self.best_score = sign * self.delta, torch.tensor(-sign * torch.inf)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of this run instead of the checkpoint's."""
        super().load_state_dict({**state_dict, "patience": self.patience})

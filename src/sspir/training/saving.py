"""Callbacks that write checkpoints, from which a run goes on exactly."""

import logging
import signal
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sspir.files import led
from sspir.numbers import LIMIT
from sspir.training.checkpoint import LAST, VALIDATION_DUE, link_or_copy
from sspir.training.run import is_first_process
from sspir.training.stopping import Stopping

log = logging.getLogger(__name__)


class SaveAtEnd(Checkpoint):
    """Validates and saves the last step, whatever ends the training, and saves when a signal stops it.

    The checkpoint is written within the step, as Lightning's count of batches has moved on after the fit. It is written
    before the last validation, which may be long, and again with its results. A signal may come amid gradients that are
    accumulated, which no checkpoint holds: then the last whole step is saved, and nothing where it came within an
    update, whose end Ctrl-C waits for; several processes stop after the same batch. Other exceptions, such as for a
    loss that is not a number, leave the last good checkpoint as it is. A checkpoint notes whether its step was still to
    be validated: then that is done first when a run goes on from it.

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
        self._stopping: Stopping | None = None  # of several processes
        self._due: dict[str, Any] = {}  # counts of the step that the run goes on from, until it is validated
        self._before: dict[str, Any] = {}  # states of callbacks before this validation
        self._amid = False  # stopped in the validation of the last whole step

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Have several processes stop together."""
        self._stopping = Stopping(trainer) if trainer.world_size > 1 else None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validate the step that a run goes on from where a stop prevented that; keep Lightning from saving it again.

        It would save after the next batch, amid gradients that are accumulated, which no checkpoint holds.
        """
        if trainer.global_step and trainer.is_global_zero:
            log.info("Going on after step %d", trainer.global_step)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
                callback._last_global_step_saved = trainer.global_step
        if self._stopping:
            self._stopping.listen()
        if self._due and trainer.enable_validation:
            self._validate(trainer)
            trainer.save_checkpoint(self.path, weights_only=False)
        self._due = {}
        own = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if threading.current_thread() is threading.main_thread() and not own:
            signal.signal(signal.SIGINT, self._on_interrupt)  # Lightning takes it back

    def _validate(self, trainer: pl.Trainer) -> None:
        """Validate the step that a run goes on from, as Lightning would have after it."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting, trainer.validating = False, True
        loop.reset_restart_stage()
        epochs = trainer.fit_loop.epoch_progress.current
        now, epochs.completed = epochs.completed, self._due["epoch"]  # which goes into the log
        loop.run()
        trainer.training, epochs.completed = True, now
        loop._has_run = False  # or an epoch without a length, that ends here, would never end

    def _on_interrupt(self, number: int, frame: Any) -> None:
        """Stop at once where there is a whole step to save, else after this one."""
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
        self._ask(trainer)
        last_epoch = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or last_epoch:
            trainer.should_stop = True
        self._save_if_stopping(trainer)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep what callbacks know, as this validation may be broken off."""
        self._before = deepcopy(call._call_callbacks_state_dict(trainer))

    def on_validation_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Stop amid a validation, too."""
        self._ask(trainer)

    def _ask(self, trainer: pl.Trainer) -> None:
        """Ask several processes whether a signal has come to any; at a SIGTERM Lightning stops after this batch."""
        number = self._stopping.ask(trainer) if self._stopping else 0
        trainer._signal_connector.received_sigterm |= number == signal.SIGTERM
        self._interrupted |= number == signal.SIGINT
        if self._interrupted and trainer.validating:
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save after the last validation, which may itself have ended the training."""
        self._save_if_stopping(trainer)

    def _save_if_stopping(self, trainer: pl.Trainer) -> None:
        if trainer.should_stop:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark a checkpoint that is written within a validation as one of the step before the validation.

        Lightning goes on exactly from a checkpoint of a step; after one of a validation it counts a step twice or not
        at all. Whether the step's validation is still to come is noted, and of how many processes the training is.
        """
        checkpoint["processes"] = trainer.world_size
        made = module.validated_at == trainer.global_step
        if self._due:
            checkpoint |= deepcopy(self._due) | {VALIDATION_DUE: not made}
            return
        if trainer.validating and self._stopped:
            checkpoint["callbacks"] = self._before
        elif trainer.validating:
            for part in ("total", "current"):
                counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][part]
                counts["completed"] = counts["processed"] - 1
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        due = not made and fetcher is not None and loop._should_check_val_fx(fetcher)
        checkpoint[VALIDATION_DUE] = bool(due or self._amid)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have Lightning know the checkpoints of a run whose folder was moved, and what the best one has reached.

        Where a run goes back, the best one may be gone: then the next to be validated is the best.
        """
        if checkpoint.get(VALIDATION_DUE):
            self._due = deepcopy({part: checkpoint[part] for part in ("epoch", "loops")})
        here = str(self.path.parent.resolve())
        for key, state in checkpoint.get("callbacks", {}).items():
            if Path(there := str(state.get("dirpath"))).name == self.path.parent.name:
                known = checkpoint["callbacks"][key] = led(state, there, here)
                there_is = Path(known["best_model_path"]).is_file()
                if not trainer.strategy.broadcast(there_is):  # as disks may tell processes differently
                    known["best_k_models"] = {}

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Save when stopped by SIGTERM or by Ctrl-C."""
        alone = self._stopping and self._stopping.at_once  # where several processes save together
        if isinstance(exception, SIGTERMException | KeyboardInterrupt) and self._whole and not alone:
            self._stopped = True
            loop = trainer.fit_loop.epoch_loop
            self._amid = trainer.validating and loop.batch_progress.total.ready == self._whole["total"]
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

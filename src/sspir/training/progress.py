"""The progress bar of a run, its speed and its memory."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar
from tqdm import tqdm

from sspir.batch import Batch
from sspir.memory import peak_bytes, reset_peak

GIB = 2**30


class StepProgress(ProgressBar):
    """One bar over all optimizer steps, with the time left and the losses; epochs of streamed data have no length."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Any = None
        self.enabled = True

    def disable(self) -> None:
        """Called on ranks other than the first."""
        self.enabled = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin where a resumed run stands."""
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self.bar = tqdm(total=total, initial=trainer.global_step, unit="step", disable=not self.enabled, desc="train")

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Show the step, and the losses: on a GPU, which has to be waited for, only those that are logged."""
        if not self.enabled:
            return
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning types it nowhere
        if step % every == 0 or module.device.type == "cpu":
            self._show_losses(trainer)
        self.bar.update(step - self.bar.n)

    def _show_losses(self, trainer: pl.Trainer) -> None:
        losses = {key.removeprefix("loss/"): f"{value.item():.3f}" for key, value in trainer.callback_metrics.items()
                  if key.startswith("loss/")}  # fmt: skip
        self.bar.set_postfix(losses, refresh=False)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Label the bar "validate"."""
        if self.bar is not None:
            self.bar.set_description("validate")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Label the bar "train"."""
        if self.bar is not None:
            self.bar.set_description("train")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the full bar on the screen."""
        self.bar.close()


class Pace(Callback):
    """Logs `images_per_second`, of all ranks together, and `memory_gib`, the most in use since it was last logged.

    It does not wait for the device: over the steps between two lines the device is as fast as the loop.
    """

    def __init__(self) -> None:
        self.images = self.step = 0
        self.since = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Count from here."""
        self.images, self.since = 0, time.monotonic()
        reset_peak(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch, and log where other values are logged."""
        self.images += len(batch) * trainer.world_size
        if trainer.global_step % trainer.log_every_n_steps or trainer.global_step == self.step:  # type: ignore[attr-defined]  # Lightning types it nowhere
            return
        self.step = trainer.global_step
        now, device = time.monotonic(), trainer.strategy.root_device
        pace = {"images_per_second": self.images / (now - self.since), "memory_gib": peak_bytes(device) / GIB}
        module.log_dict(pace)
        self.images, self.since = 0, now
        reset_peak(device)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the time of validation out."""
        self.on_train_start(trainer, module)

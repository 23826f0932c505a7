"""Pictures of validation, to look at while training goes on."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from sspir.batch import Batch
from sspir.images.io import Picture, write_image
from sspir.images.panel import middle, panel, to_pil
from sspir.models.latent import upscale
from sspir.numbers import COUNT, LIMIT
from sspir.sampling.output import RestorationOutput
from sspir.training.loggers import StepLogger, wandb_runs
from sspir.training.strategy import gathered
from sspir.training.tensorboard import TensorBoardLogger


class Shown(NamedTuple):
    """An image of a validation, to be shown.

    Attributes:
        place: of its set, and of the image in the set.
        name: of the image.
        caption: that steered its restoration.
        columns: name -> picture (3, H, W) in [0, 1] on the CPU: bicubic, the Processor's where there is one, and so on.
        values: metric -> value of the restored image.
    """

    place: tuple[int, int]
    name: str
    caption: str
    columns: dict[str, Tensor]
    values: dict[str, float]


class LogRestorations(Callback):
    """Panels of validation images, LQ | restored | HQ: files in the run folder, and in TensorBoard; in W&B a table too.

    Args:
        folder: of the run.
        count: images per validation set.
        table_size: longest side in pixels of the pictures in W&B's table; of larger ones the middle is shown.
    """

    def __init__(self, folder: str, count: int = 4, table_size: int = 256) -> None:
        self.folder = Path(folder) / "panels"
        self.count = LIMIT.require("callbacks.panels.count", count)
        self.table_size = COUNT.require("callbacks.panels.table_size", table_size)
        self.taken: dict[str, tuple[int, int]] = {}  # name of a panel -> places of its set and batch
        self.rows: list[dict[str, Any]] = []  # of the table of this validation

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin a table."""
        self.rows = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show this batch, whose `outputs` are a `RestorationOutput`, and the other ranks' batches."""
        share = trainer.datamodule.shares[dataloader_idx]  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        if batch_idx * share.world >= self.count or trainer.sanity_checking:
            return
        place, shown = share.place(batch_idx), None
        if share.counts(batch_idx) and place < self.count:
            values = module.validation.values(outputs.images[:1], batch.hq[:1])
            shown = Shown((dataloader_idx, place), batch.ids[0], outputs.captions[0], _columns(batch, outputs), values)
        for shown_of_rank in gathered(shown):
            if shown_of_rank is not None and trainer.is_global_zero:
                self._show(trainer, shown_of_rank)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Send the table to W&B."""
        for run in wandb_runs(trainer) if self.rows else ():
            run.log_rows("pictures", self.rows, _step(trainer))

    def _show(self, trainer: Any, shown: Shown) -> None:
        name = self._name(trainer, shown.name, shown.place)
        picture = panel(shown.columns, shown.caption)
        write_image(self.folder / f"{name}-step{trainer.global_step:07d}.png", Picture(np.asarray(picture)))
        for logger in trainer.loggers:
            if isinstance(logger, StepLogger | TensorBoardLogger):
                logger.log_image(f"panels/{name}", [picture], _step(trainer), caption=[shown.caption])
        middles = {column: to_pil(middle(image, self.table_size)) for column, image in shown.columns.items()}
        facts = {"step": trainer.global_step, "image": name, "caption": shown.caption}
        self.rows.append({**facts, **middles, **shown.values})

    def _name(self, trainer: Any, image: str, place: tuple[int, int]) -> str:
        """Name of an image's panel: its path without suffix, below its set's name if there are several; unique."""
        sets = trainer.datamodule.validation_names
        path = Path(sets[place[0]], image) if len(sets) > 1 else Path(image)
        names = (path.with_suffix("").as_posix(), path.as_posix(), f"{path.as_posix()}-{place[1]}")
        return next(name for name in names if self.taken.setdefault(name, place) == place)


def _step(trainer: Any) -> int:
    """The step that values of a validation are logged at, as Lightning counts."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def _columns(batch: Batch, restored: RestorationOutput) -> dict[str, Tensor]:
    """The first image of a batch, upscaled, beside the Processor's, the restored one and the truth."""
    columns = {"bicubic": upscale(batch.lq, batch.size)[0]}
    if restored.structure:
        columns["processor"] = upscale(restored.structure[0], batch.size)[0]
    columns |= {"restored": restored.images[0], "truth": batch.hq[0]}
    return {name: image.float().cpu() for name, image in columns.items()}

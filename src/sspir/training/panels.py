"""Pictures of validation, to look at while training goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL.Image import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from sspir.batch import Batch
from sspir.images.io import Picture, write_image
from sspir.images.panel import panel
from sspir.models.latent import upscale
from sspir.sampling.output import RestorationOutput
from sspir.training.strategy import gathered
from sspir.training.tensorboard import TensorBoardLogger


class LogRestorations(Callback):
    """Panels of validation images, LQ | restored | HQ, as files in the run folder, in W&B and in TensorBoard.

    Args:
        folder: of the run.
        count: images per validation set.
    """

    def __init__(self, folder: str, count: int = 4) -> None:
        self.folder = Path(folder) / "panels"
        self.count = count
        self.taken: dict[str, tuple[int, int]] = {}  # name of a panel -> places of its set and batch

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a panel of this batch, whose `outputs` are a `RestorationOutput`, and of the other ranks' batches."""
        share = trainer.datamodule.shares[dataloader_idx]  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        if batch_idx * share.world >= self.count or trainer.sanity_checking:
            return
        place, drawn = share.place(batch_idx), None
        if share.counts(batch_idx) and place < self.count:
            drawn = (dataloader_idx, place), batch.ids[0], outputs.captions[0], _panel(batch, outputs)
        for panel_of_rank in gathered(drawn):
            if panel_of_rank is not None and trainer.is_global_zero:
                self._write(trainer, *panel_of_rank)

    def _write(self, trainer: Any, place: tuple[int, int], image: str, caption: str, picture: Image) -> None:
        name = self._name(trainer, image, place)
        path = self.folder / f"{name}-step{trainer.global_step:07d}.png"
        write_image(path, Picture(np.asarray(picture)))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger | TensorBoardLogger):
                step = trainer.fit_loop.epoch_loop._batches_that_stepped  # what values are logged at
                logger.log_image(f"panels/{name}", [picture], step, caption=[caption])

    def _name(self, trainer: Any, image: str, place: tuple[int, int]) -> str:
        """Name of an image's panel: its path without suffix, below its set's name if there are several; unique."""
        sets = trainer.datamodule.validation_names
        path = Path(sets[place[0]], image) if len(sets) > 1 else Path(image)
        names = (path.with_suffix("").as_posix(), path.as_posix(), f"{path.as_posix()}-{place[1]}")
        return next(name for name in names if self.taken.setdefault(name, place) == place)


def _panel(batch: Batch, restored: RestorationOutput) -> Image:
    """The first image of a batch beside bicubic upscaling, the Processor's and the truth."""
    columns = {"bicubic": upscale(batch.lq, batch.size)[0]}
    if restored.structure:
        columns["processor"] = upscale(restored.structure[0], batch.size)[0]
    columns |= {"restored": restored.images[0], "truth": batch.hq[0]}
    return panel({name: image.float().cpu() for name, image in columns.items()}, restored.captions[0])

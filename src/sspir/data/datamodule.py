"""Photos to training batches: degradation on the device, exact resumption in the middle of an epoch."""

import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy

from sspir.batch import Batch
from sspir.data.loading import (
    WORKERS,
    CountingLoader,
    Degrade,
    Loaded,
    TrainingViews,
    ValidationViews,
    begin_worker,
    collate,
)
from sspir.data.order import EpochSampler, Position, Share
from sspir.data.paired_folder import PairedFolder
from sspir.data.reader import MISSING
from sspir.data.sample import Photos, photos_of
from sspir.degradation import Degradation, Sharpen
from sspir.errors import UserError
from sspir.numbers import LIMIT

log = logging.getLogger(__name__)


class RestorationDataModule(pl.LightningDataModule):
    """Delivers `sspir.batch.Batch`es on the device of the step.

    Which photo comes when, how it is cut and how it is degraded depend on (seed, epoch, photo) alone. The trainer
    must leave the sampler alone: `Trainer(use_distributed_sampler=False)`.

    Args:
        train: photos or pairs to train on.
        validation: data sets to measure on, by name; one loader each, in this order (`validation_names`). None: none.
        degradation: makes lq from hq, except for pairs, which bring theirs.
        batch_size: images per step and rank.
        workers: processes that read; 0 reads in the main process.
        seed: of order, crops and degradations.
        validation_batch_size: 1 unless all validation photos have one size.
        validation_degradation: another one for validation. Its seeds depend on the photo's name alone, so that
            epochs and runs are measured on the same images.
        sharpen_hq: sharpen the training truth by an unsharp mask before it is degraded, as Real-ESRGAN, SeeSR and
            HYPIR do (OSEDiff, PiSA-SR and PASD do not).
        degrade_in_workers: make the training pairs in the worker processes: for training on a CPU, where the step
            has no device to do it on meanwhile. The pairs are the same.
        passes: how often an epoch goes through the training photos; above 1 for sets of a few photos.
        max_broken: share of training files that may be unreadable before the run stops.

    Raises:
        UserError: a number is out of range, or a validation photo is not there or too small for its crop.
    """

    def __init__(
        self,
        train: Photos,
        validation: Mapping[str, Photos] | None,
        degradation: Degradation,
        batch_size: int,
        workers: int = 0,
        seed: int = 0,
        validation_batch_size: int = 1,
        validation_degradation: Degradation | None = None,
        sharpen_hq: bool = False,
        degrade_in_workers: bool = False,
        passes: int = 1,
        max_broken: float = 0.1,
    ) -> None:
        super().__init__()
        if batch_size < 1 or passes < 1:
            raise UserError(f"batch_size is {batch_size} and passes {passes}: give 1 or more.")
        LIMIT.require("workers", workers)
        self.train = photos_of(train)
        self.validation = {name: photos_of(photos) for name, photos in (validation or {}).items()}
        self.validation_names = list(self.validation)
        for name, photos in self.validation.items():  # it would be told hours later, at the first validation
            if isinstance(photos, PairedFolder):
                photos.require_fit(f"dataset.validation.{name}.crop.size")
            if gone := [file for file, mark in photos.contents() if MISSING in str(mark).split()]:
                raise UserError(
                    f"dataset.validation.{name} has links to nowhere, first {gone[0]}; mend or delete them."
                )
        self.degrade = Degrade(degradation, Sharpen() if sharpen_hq else None)
        self.degrade_validation = Degrade(validation_degradation or degradation)
        self.degrade_in_workers = degrade_in_workers
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self.validation_batch_size = validation_batch_size
        self.passes = passes
        self.max_broken = max_broken
        self.shares: list[Share] = []  # of the validation sets, in their order
        self._warned = False
        self._resumed = (0, 0)  # epoch and batch that a checkpoint was written at

    def train_dataloader(self) -> CountingLoader:
        """Random views in a shuffled order."""
        sampler = EpochSampler(self.train.weights() * self.passes, self.batch_size, self.seed, self._position)
        views = TrainingViews(self.train, self.seed, self.degrade if self.degrade_in_workers else None)
        loader = CountingLoader(views, batch_sampler=sampler, **self._loader_options())
        loader.photos, loader.max_broken = len(self.train), self.max_broken
        return loader

    def val_dataloader(self) -> list[CountingLoader]:
        """One loader per validation set, in order; the ranks share the photos, and each photo is counted once."""
        self.shares = [self._share(len(photos)) for photos in self.validation.values()]
        return [
            CountingLoader(ValidationViews(photos), batch_sampler=share, **self._loader_options())
            for photos, share in zip(self.validation.values(), self.shares, strict=True)
        ]

    def _share(self, photos: int) -> Share:
        if self.trainer is None:
            return Share(photos, self.validation_batch_size)
        rank, world, limit = self.trainer.global_rank, self.trainer.world_size, self.trainer.limit_val_batches
        most = limit if isinstance(limit, int) else None  # Lightning applies a share to every rank itself
        if isinstance(self.trainer.strategy, ModelParallelStrategy):  # ranks compute each layer together
            return Share(photos, self.validation_batch_size, limit=most, counted=rank == 0)
        return Share(photos, self.validation_batch_size, rank, world, most)

    def on_after_batch_transfer(self, batch: Loaded, dataloader_idx: int) -> Batch:
        """Turn a loaded batch into a `Batch`, on the device of the step; see `prepare`."""
        absolute = next((each for each in batch["ids"] if PurePath(str(each)).is_absolute()), None)
        if absolute is not None and not self._warned:
            self._warned = True
            log.warning(
                "A sample's id is the whole path %s, of which its draws are seeded: elsewhere they are others; give "
                "it the path below a root.", absolute,
            )  # fmt: skip
        training = self.trainer is not None and self.trainer.training
        return self.prepare(batch, training)

    @torch.no_grad()
    def prepare(self, batch: Loaded, training: bool) -> Batch:
        """Make lq from hq where the batch has none yet."""
        hq, lq = batch["hq"], batch["lq"]
        if lq is None:
            degrade = self.degrade if training else self.degrade_validation
            hq, lq = degrade(hq, batch["seeds"])
        return Batch(lq=lq, hq=hq, captions=batch["captions"], ids=batch["ids"], teacher=batch["teacher"])

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch of the training; nothing else is needed to go on."""
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return {"epoch": self.trainer.current_epoch, "batch": progress.processed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on at the epoch and batch of a checkpoint."""
        self._resumed = (state_dict["epoch"], state_dict["batch"])

    def _position(self) -> Position:
        """Where the training stands; the order asks at each epoch's start, as no hook fires for a resumed epoch."""
        if self.trainer is None:
            return Position(0, 0)
        epoch, batch = self._resumed
        current = self.trainer.current_epoch
        done, trainer = batch if current == epoch else 0, self.trainer
        return Position(current, done, trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "collate_fn": collate,
            "worker_init_fn": begin_worker,
            "multiprocessing_context": WORKERS if self.workers else None,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

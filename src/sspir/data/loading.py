"""From keys of samples to batches; broken files are skipped and named."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any, TypedDict

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sspir.data.order import Key
from sspir.data.sample import Photos, Sample
from sspir.degradation import Degradation, Sharpen
from sspir.errors import UserError
from sspir.images.io import ImageError
from sspir.seeding import sample_seed

log = logging.getLogger(__name__)

ATTEMPTS = 100  # broken files in a row before a worker gives up
# How workers are started; Linux' default up to Python 3.13. They share the memory of the main process, need nothing to
# be pickled, and have no other thread that a signal might come to.
WORKERS = "fork" if sys.platform == "linux" else None


class Loaded(TypedDict):
    """A batch on its way to the device, before degradation; hq and teacher (B, 3, H, W), lq (B, 3, h, w).

    What the data do not bring is None.
    """

    hq: Tensor
    lq: Tensor | None
    teacher: Tensor | None
    captions: list[str]
    ids: list[str]
    seeds: list[int]
    broken: list[str]


class Degrade:
    """Makes training pairs: cuts hq to a multiple of the scale, sharpens it where `sharpen` is given, degrades it."""

    def __init__(self, degradation: Degradation, sharpen: Sharpen | None = None) -> None:
        self.degradation = degradation
        self.sharpen = sharpen

    def __call__(self, hq: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] and B seeds -> hq and lq."""
        hq = self.degradation.cut(hq)
        if self.sharpen is not None:
            hq = self.sharpen(hq)
        return self.degradation.pair(hq, seeds)


class TrainingViews(Dataset[tuple[Sample, int, list[str]]]):
    """Turns keys into random views: (sample, seed of its degradation, sentences about broken files).

    A broken file gives its place to the next photo that can be read.

    Args:
        photos: the data set.
        seed: of crops, flips and degradations.
        degrade: makes the low-quality image here, in the worker process; None leaves it to the device.
    """

    def __init__(self, photos: Photos, seed: int, degrade: Degrade | None = None) -> None:
        self.photos = photos
        self.seed = seed
        self.degrade = degrade

    def __getitem__(self, key: Key) -> tuple[Sample, int, list[str]]:
        """Read one sample."""
        epoch, photo, copy = key
        broken: list[str] = []
        for attempt in range(min(ATTEMPTS, len(self.photos))):
            number = (photo + attempt) % len(self.photos)
            try:
                sample = self.photos.view(number, sample_seed(self.seed, epoch, f"view {number} {copy}"))
            except ImageError as error:
                broken.append(str(error))
                continue
            name = f"{sample['id']} {copy}" if copy else sample["id"]
            seed = sample_seed(self.seed, epoch, name)
            if self.degrade is not None and "lq" not in sample:
                hq, lq = self.degrade(sample["hq"][None], [seed])
                sample["hq"], sample["lq"] = hq[0], lq[0]
            return sample, seed, broken
        raise UserError(f"{len(broken)} files in a row cannot be read; the first: {broken[0]}")


class ValidationViews(Dataset[tuple[Sample, int, list[str]]]):
    """Every photo as it is measured, with a seed that depends on its name alone."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, int, list[str]]:
        """Read one sample; a broken file is an error, as a measurement without it is another one."""
        sample = self.photos[index]
        return sample, sample_seed(0, 0, sample["id"]), []


def collate(views: list[tuple[Sample, int, list[str]]]) -> Loaded:
    """Stack views of one size."""
    samples = [sample for sample, _, _ in views]
    sizes = {tuple(sample["hq"].shape) for sample in samples}
    if len(sizes) > 1:
        raise UserError(f"The photos of a batch have several sizes ({sorted(sizes)}); give the data set a crop.")
    lq = [sample["lq"] for sample in samples if "lq" in sample]
    if lq and len(lq) < len(samples):
        raise UserError("A batch mixes pairs and photos without a low-quality half; set data.degrade_in_workers=true.")
    teacher = [sample["teacher"] for sample in samples if "teacher" in sample]
    if teacher and len(teacher) < len(samples):
        raise UserError("A batch mixes photos with and without a teacher's picture; train on sets of one kind.")
    return {
        "hq": torch.stack([sample["hq"] for sample in samples]),
        "lq": torch.stack(lq) if lq else None,  # one tensor: each takes a socket of its own out of a worker
        "teacher": torch.stack(teacher) if teacher else None,
        "captions": [sample["caption"] for sample in samples],
        "ids": [sample["id"] for sample in samples],
        "seeds": [seed for _, seed, _ in views],
        "broken": [sentence for _, _, sentences in views for sentence in sentences],
    }


def begin_worker(worker: int) -> None:
    """Keep OpenCV's thread pool, which does not survive a fork, out of worker processes; torch does so itself.

    Ctrl-C and a SIGTERM that every process of a job is sent, as Slurm does, are the main process's, which needs its
    workers to end a step and to save; of forked workers only its own SIGTERM ends them. Those of macOS and Windows
    still die of any.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if WORKERS == "fork":  # with no thread but this one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process at a SIGTERM of its parent's, which torch sends to workers that it waits for."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class CountingLoader(DataLoader[Any]):
    """A DataLoader that names broken files at the end of each epoch and stops when they are too many.

    `photos` and `max_broken` are set after construction, as Lightning rebuilds loaders from their arguments.
    """

    photos = 0
    max_broken = 1.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's is not generic
        """Yield batches, counting the broken files among them."""
        broken: set[str] = set()
        batches = super().__iter__()
        try:
            while (batch := _next(batches)) is not None:
                if batch["broken"]:
                    broken.update(batch["broken"])
                    self._check(broken)
                yield batch
        except GeneratorExit:  # Lightning counts the batches and never asks for one more
            self._tell(broken)
            raise
        self._tell(broken)

    def _tell(self, broken: set[str]) -> None:
        if broken:
            log.warning("%d of %d photos were left out in this epoch:\n%s", len(broken), self.photos, _listed(broken))

    def state_dict(self) -> dict[str, int]:
        """Nothing: the sampler asks the data module where to go on. Lightning warns where this is missing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""

    def _check(self, broken: set[str]) -> None:
        if len(broken) > self.max_broken * self.photos:
            raise UserError(
                f"{len(broken)} of {self.photos} photos cannot be used, more than the share of {self.max_broken:g} "
                f"that max_broken allows: repair or remove them.\n{_listed(broken)}"
            )


def _next(batches: Iterator[Any]) -> Any:
    """The next batch, or None at the end; a worker's UserError says its sentence without the worker's traceback."""
    try:
        return next(batches, None)
    except UserError as error:
        raise UserError(str(error).rsplit("Error: ", 1)[-1].strip()) from None


def _listed(sentences: set[str]) -> str:
    return "\n".join(f"  {sentence}" for sentence in sorted(sentences))

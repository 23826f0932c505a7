"""The order of an epoch, as a function of seed, epoch and rank alone."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from sspir.errors import UserError
from sspir.seeding import sample_seed


class Key(NamedTuple):
    """One sample of one epoch; `copy` is how often the photo came before in the epoch."""

    epoch: int
    photo: int
    copy: int


class Position(NamedTuple):
    """Epoch and batch at which a training stands, and the process that asks."""

    epoch: int
    batch: int  # of this rank, already trained on
    rank: int = 0
    world: int = 1
    accumulated: int = 1  # batches whose gradients are added up


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys. It keeps no state: a resumed run asks for its position and gets the rest of the epoch.

    The last photos that do not fill a batch on every rank, or the batches that gradients are accumulated over, are left
    to other epochs: an epoch ends with an optimizer step, and so does every interval that is counted in these.

    Args:
        weights: (N,) how often each photo is seen in an epoch; a part of 1 is the share of epochs that it is in.
        batch_size: images per batch and rank.
        seed: of the order.
        position: called at the start of each epoch, in the main process.
    """

    def __init__(self, weights: Tensor, batch_size: int, seed: int, position: Callable[[], Position]) -> None:
        self.sampling_weights = weights.double()
        self.total = round(float(weights.sum()))
        self.batch_size = batch_size
        self.seed = seed
        self.position = position

    def __len__(self) -> int:
        """Number of batches per rank in a whole epoch."""
        position = self.position()
        batches = self.total // (self.batch_size * position.world) // position.accumulated * position.accumulated
        if batches == 0:
            raise UserError(
                f"An epoch of {self.total} photos does not fill the batches of one step, {position.accumulated} of "
                f"{self.batch_size} on each of {position.world} ranks: lower batch_size or "
                f"trainer.accumulate_grad_batches, or have each photo N times in an epoch by ++data.passes=N."
            )
        return batches

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the batches of this rank that are still to come in the current epoch."""
        position = self.position()
        photos, copies = self.order(position.epoch)
        for batch in range(position.batch, len(self)):
            first = (batch * position.world + position.rank) * self.batch_size
            chosen = slice(first, first + self.batch_size)
            pairs = zip(photos[chosen].tolist(), copies[chosen].tolist(), strict=True)
            yield [Key(position.epoch, photo, copy) for photo, copy in pairs]

    def order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The photos of an epoch, of all ranks, in order, and how often each came before: two (total,) of int64."""
        generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, "order"))
        shuffled = torch.randperm(len(self.sampling_weights), generator=generator)
        if bool((self.sampling_weights == 1).all()):
            return shuffled, torch.zeros_like(shuffled)
        # systematic sampling: photo i is met floor(w) or ceil(w) times, and w times on average
        ends = self.sampling_weights[shuffled].cumsum(0) * (self.total / self.sampling_weights.sum())
        marks = torch.arange(self.total) + torch.rand((), generator=generator, dtype=torch.float64) * (1 - 1e-9)
        picks = shuffled[torch.searchsorted(ends, marks, right=True).clamp(max=len(ends) - 1)]
        picks = picks[torch.randperm(self.total, generator=generator)]
        return picks, _copies(picks)


def _copies(picks: Tensor) -> Tensor:
    """How often each photo of picks (N,) came before in the list, (N,)."""
    values, places = picks.sort(stable=True)
    starts = torch.searchsorted(values, values)  # where the run of equal values begins
    copies = torch.empty_like(picks)
    copies[places] = torch.arange(len(picks)) - starts
    return copies


class Share(Sampler[list[int]]):
    """The batches of a validation set that a rank goes through: as many on every rank, as ranks compute in step.

    A rank whose batches run out repeats a batch of another rank, which is not counted.

    Args:
        photos: number of photos of the set.
        batch_size: images per batch.
        rank: of the process.
        world: number of processes.
        limit: number of batches of all ranks together; None for all.
        counted: whether this rank's batches are measured at all.
    """

    def __init__(
        self,
        photos: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        limit: int | None = None,
        counted: bool = True,
    ) -> None:
        self.batches = [range(photos)[first : first + batch_size] for first in range(0, photos, batch_size)][:limit]
        self.rank, self.world, self.counted = rank, world, counted

    def __len__(self) -> int:
        """Number of batches on each rank."""
        return -(-len(self.batches) // self.world)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches in order."""
        for number in range(len(self)):
            yield list(self.batches[self.place(number) % len(self.batches)])

    def place(self, number: int) -> int:
        """Place of this rank's `number`-th batch among those of all ranks."""
        return number * self.world + self.rank

    def counts(self, number: int) -> bool:
        """Whether this rank's `number`-th batch is measured here."""
        return self.counted and self.place(number) < len(self.batches)

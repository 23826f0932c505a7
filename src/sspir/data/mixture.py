"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sspir.data.crop import Crop
from sspir.data.cropped import CroppedPhotos
from sspir.data.sample import Photos, Sample, photos_of
from sspir.errors import UserError


class Mixture(Dataset[Sample]):
    """Several data sets, each seen as often as its weight says.

    Args:
        datasets: what is mixed.
        weights: how often each photo of a data set is seen in an epoch: 1 once, 2 twice, 0.1 every tenth epoch.
        crop: patches to cut, of all data sets that have a crop; None leaves each its own.
    """

    def __init__(
        self, datasets: Sequence[Photos], weights: Sequence[float] | None = None, crop: Crop | None = None
    ) -> None:
        self.datasets = list(map(photos_of, datasets))
        for dataset in self.datasets if crop else ():
            if isinstance(dataset, CroppedPhotos):
                dataset.crop = crop
        self.factors = [float(weight) for weight in weights or [1.0] * len(self.datasets)]
        if len(self.factors) != len(self.datasets) or not self.datasets or min(self.factors) < 0:
            raise UserError(
                f"Mixture has {len(self.datasets)} data sets and weights {self.factors}: give one of 0 or more each."
            )
        self.ends = list(accumulate(len(dataset) for dataset in self.datasets))

    def __len__(self) -> int:
        """Number of photos in all data sets."""
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """The photo as its data set measures it."""
        dataset, place = self._locate(index)
        return dataset[place]

    def view(self, index: int, seed: int) -> Sample:
        """The photo as its data set trains on it."""
        dataset, place = self._locate(index)
        return dataset.view(place, seed)

    def weights(self) -> Tensor:
        """(N,) how often each photo is seen in an epoch, on average."""
        return torch.cat([d.weights() * factor for d, factor in zip(self.datasets, self.factors, strict=True)])

    def contents(self) -> Iterator[tuple[str, str]]:
        """Names and contents of the files of all data sets."""
        return (entry for dataset in self.datasets for entry in dataset.contents())

    def _locate(self, index: int) -> tuple[Photos, int]:
        number = bisect_right(self.ends, index)
        return self.datasets[number], index - (self.ends[number - 1] if number else 0)

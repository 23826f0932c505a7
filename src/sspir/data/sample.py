"""What a data set must offer: samples, and the protocol by which training and measuring read them."""

from collections.abc import Iterator, Sequence
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Sample(TypedDict):
    """One photo.

    Keys:
        id: its name below its root, stable over machines.
        hq: (3, H, W) in [0, 1], RGB.
        caption: "" where there is none.
        lq: (3, h, w) in [0, 1], RGB, where the data are pairs; otherwise it is made by a degradation.
        teacher: (3, H, W) in [0, 1], RGB, what another model made of lq, where the data bring it.
    """

    id: str
    hq: Tensor
    caption: str
    lq: NotRequired[Tensor]
    teacher: NotRequired[Tensor]


@runtime_checkable
class Photos(Protocol):
    """A random-access data set."""

    def __len__(self) -> int:
        """Number of photos."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """The photo as it is measured: whole, or its centre where the data set crops."""
        ...

    def view(self, index: int, seed: int) -> Sample:
        """The photo as it is trained on: cropped, flipped and so on by this seed.

        Raises:
            ImageError: for a broken file.
        """
        ...

    def weights(self) -> Tensor:
        """(N,) how often each photo should be seen in an epoch, on average."""
        ...

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every file's name below its root, with its size or, where one is at hand, a hash of its content, as text."""
        ...


class MapStyle(Dataset[Sample]):
    """Wraps a user's data set that has only a length and an index; training uses its samples as measuring does.

    Args:
        samples: a data set of torch's map style, or a list. Where it has `contents()`, as of `Photos`, a changed set
            is noticed as that of a folder is.
    """

    def __init__(self, samples: "Sequence[Sample] | Dataset[Sample]") -> None:
        self.samples = samples

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)  # type: ignore[arg-type]  # torch's has no length of its own

    def __getitem__(self, index: int) -> Sample:
        """A copy of the sample, so that the user's dictionary is not written to."""
        return self.samples[index].copy()

    def view(self, index: int, seed: int) -> Sample:
        """The sample, whatever the seed: the user's data set cuts as it likes."""
        return self[index]

    def weights(self) -> Tensor:
        """(N,) every sample once in an epoch."""
        return torch.ones(len(self), dtype=torch.float64)

    def contents(self) -> Iterator[tuple[str, str]]:
        """What the user's data set says; else the samples' numbers: for their names each would have to be read."""
        if told := getattr(self.samples, "contents", None):
            return iter(told())
        return ((str(index), "") for index in range(len(self)))


def photos_of(samples: "Photos | Sequence[Sample] | Dataset[Sample]") -> Photos:
    """Return `Photos` unchanged; wrap anything else that has a length and an index in `MapStyle`."""
    return samples if isinstance(samples, Photos) else MapStyle(samples)

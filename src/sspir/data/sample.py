"""What a data set is to the rest of the program."""

from collections.abc import Iterator
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor


class Sample(TypedDict):
    """One photo.

    Keys:
        id: its name below its root, stable over machines.
        hq: (3, H, W) in [0, 1], RGB.
        caption: "" where there is none.
        lq: (3, h, w) in [0, 1], RGB, where the data are pairs; otherwise it is made by a degradation.
    """

    id: str
    hq: Tensor
    caption: str
    lq: NotRequired[Tensor]


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
        """Every file's name below its root, and what tells its content: its size, or a hash where one is at hand."""
        ...

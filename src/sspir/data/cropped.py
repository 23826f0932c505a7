"""The base class of photo data sets: photos become samples, cropped or whole."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sspir.data.crop import Crop, Pixels
from sspir.data.sample import Sample
from sspir.images.picture import chw_tensor
from sspir.moved import old_names_of


class Photo(NamedTuple):
    """A decoded photo: its name, its caption, and (H, W, 3) pixels; lq only where the data are pairs."""

    name: str
    caption: str
    hq: Pixels
    lq: Pixels | None = None


class CroppedPhotos(Dataset[Sample]):
    """A random-access data set; a subclass says how many photos there are and reads one.

    Args:
        crop: patches to cut; None leaves photos whole.
    """

    def __init__(self, crop: Crop | None) -> None:
        self.crop = crop

    def __len__(self) -> int:
        """Number of photos."""
        raise NotImplementedError

    def load(self, index: int) -> Photo:
        """Read a whole photo.

        Raises:
            ImageError: for a broken file.
        """
        raise NotImplementedError

    def contents(self) -> Iterator[tuple[str, str]]:
        """The photos' numbers, unless a subclass knows every file's name and size; see `Photos.contents`."""
        return ((str(index), "") for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """The whole photo, or its centre."""
        photo = self.load(index)
        return _sample(photo, *(self.crop.centre(photo.hq, photo.lq) if self.crop else (photo.hq, photo.lq)))

    def view(self, index: int, seed: int) -> Sample:
        """A patch drawn from this seed; the whole photo without a crop."""
        photo = self.load(index)
        return _sample(photo, *(self.crop.random(photo.hq, photo.lq, seed) if self.crop else (photo.hq, photo.lq)))

    def weights(self) -> Tensor:
        """(N,) every photo once in an epoch."""
        return torch.ones(len(self), dtype=torch.float64)


def _sample(photo: Photo, hq: Pixels, lq: Pixels | None) -> Sample:
    sample: Sample = {"id": photo.name, "hq": chw_tensor(hq), "caption": photo.caption}
    if lq is not None:
        sample["lq"] = chw_tensor(lq)
    return sample


__getattr__ = old_names_of(__name__)

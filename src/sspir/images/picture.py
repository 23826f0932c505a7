"""A picture in memory, whose colours can be replaced while its depth, alpha, EXIF and profile stay."""

from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sspir.color import luma
from sspir.errors import UserError

_ROWS = 256
Pixels = NDArray[Any]
"""(H, W, 3) of uint8 or uint16."""


class ImageError(UserError):
    """A file that cannot be read or written as a picture."""


class FormatError(ImageError):
    """A file of a kind that is not read, whole or not."""


@dataclass(frozen=True)
class Picture:
    """An upright sRGB picture of 8 or 16 bits per value.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16, RGB.
        alpha: (H, W) opacity of the same type, or None if the file has none.
        grey: whether the picture has no colour; what replaces its pixels then has none either.
        exif: EXIF block without orientation, thumbnail and sizes, b"" if there is none.
        icc: colour profile to write beside the pixels, b"" if the file named none.
        warnings: sentences about what reading had to change.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    exif: bytes = b""
    icc: bytes = b""
    warnings: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def tensor(self) -> Tensor:
        """The colours as a (3, H, W) float32 tensor in [0, 1]."""
        return chw_tensor(self.pixels)

    def replaced(self, image: Tensor) -> "Picture":
        """The same picture with other colours: same depth, same metadata, grey if it was grey.

        Args:
            image: (3, h, w) in [0, 1], RGB, of any size; alpha is resampled to it.

        Raises:
            ValueError: if the image holds NaN or infinity, which no file can show.
        """
        image = image.detach().float().cpu()
        if not torch.isfinite(image).all():
            raise ValueError("The image to write holds NaN or infinite values.")
        if self.grey:
            image = luma(image).expand(3, -1, -1)
        pixels = self._quantised(image.permute(1, 2, 0))
        return replace(self, pixels=pixels, alpha=self._alpha_of_size(image.shape[1], image.shape[2]))

    def _alpha_of_size(self, height: int, width: int) -> Pixels | None:
        if self.alpha is None or self.alpha.shape == (height, width):
            return self.alpha
        alpha = torch.from_numpy(self.alpha.astype(np.float32))[None, None] / self.peak
        alpha = F.interpolate(alpha, (height, width), mode="bicubic", antialias=True, align_corners=False)
        return self._quantised(alpha[0, 0])

    def _quantised(self, values: Tensor) -> Pixels:
        """Values (H, W, ...) in [0, 1] as whole levels, a few rows at a time: copies of large images count."""
        levels = np.empty(values.shape, self.pixels.dtype)
        for top in range(0, len(values), _ROWS):
            rows = values[top : top + _ROWS].clamp(0, 1).mul(self.peak).round()
            levels[top : top + _ROWS] = rows.numpy().astype(levels.dtype)
        return levels


def chw_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (3, H, W) float32 in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return torch.from_numpy(planes.astype(np.float32)).div_(float(np.iinfo(pixels.dtype).max))


def upright(array: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (1 to 8; anything else is taken as 1) of an (H, W, ...) array."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def spread_colours(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Give transparent pixels the colours of the visible ones around them.

    Editors store black under full transparency; resampling would draw it into the visible edge as a dark
    fringe. Colours are averaged over ever coarser cells until each has one, and filled in from coarse to fine.

    Args:
        pixels: (H, W, 3).
        alpha: (H, W); only pixels where it is 0 are changed.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels
    weights = [visible.astype(np.float32)[..., None]]
    colours = [pixels.astype(np.float32) * weights[0]]
    while weights[-1].min() == 0:
        size = tuple(max(1, (side + 1) // 2) for side in weights[-1].shape[1::-1])
        weights.append(cv2.resize(weights[-1], size, interpolation=cv2.INTER_AREA)[..., None])
        colours.append(cv2.resize(colours[-1], size, interpolation=cv2.INTER_AREA))
    filled = colours[-1] / weights[-1]
    for colour, weight in zip(colours[-2::-1], weights[-2::-1], strict=True):
        coarse = cv2.resize(filled, weight.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        filled = np.where(weight > 0, colour / np.maximum(weight, 1e-12), coarse)
    return np.where(visible[..., None], pixels, filled.round().astype(pixels.dtype))

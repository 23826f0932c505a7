"""Limit how large a restored photo may become, by the photo's header, before anything is decoded or written."""

import contextlib
import math
from pathlib import Path

import torch

from sspir.errors import UserError
from sspir.images.io import ImageError, read_size
from sspir.memory import capacity_bytes
from sspir.numbers import POSITIVE

MAX_OUTPUT_PIXELS = 400_000_000
"""Pixels an enlarged photo may have unless the caller allows more."""


def enlarged(size: tuple[int, int], scale: float, most: float, name: object = "The photo") -> tuple[int, int]:
    """Height and width of an enlarged photo.

    Args:
        size: height and width of the photo.
        scale: how much larger.
        most: pixels that the enlarged photo may have; infinity for any number.
        name: of the photo, for the message.

    Raises:
        UserError: the enlarged photo would have more pixels, or the scale is no positive number.
    """
    height, width = size
    scale = POSITIVE.require("scale", scale)
    if (pixels := height * width * scale**2) > most:
        largest = math.floor(math.sqrt(most / (height * width)) * 1000) / 1000
        raise UserError(
            f"{name} of {width} x {height} pixels would have {pixels / 1e6:.6g} megapixels at scale {scale:g}, more "
            f"than the limit of {most / 1e6:g}; the largest scale that fits is {largest:g}, or raise "
            f"max_output_pixels (--max-output-pixels)."
        )
    return max(1, round(height * scale)), max(1, round(width * scale))


def require_room(path: str | Path, scale: float, most: float) -> None:
    """Refuse a photo that would become too large; a file that is no photo passes, and is refused when it is read.

    Args:
        path: of the photo.
        scale: how much larger.
        most: see `enlarged`.

    Raises:
        UserError: see `enlarged`; or this machine could not even hold the result, in 8 bits.
    """
    with contextlib.suppress(ImageError):
        height, width = enlarged(read_size(path), scale, most, path)
        if (needed := 3 * height * width) > (held := capacity_bytes(torch.device("cpu"))):
            raise UserError(
                f"{path} at scale {scale:g} would take {needed / 2**30:.4g} GiB, and this machine has "
                f"{held / 2**30:.4g}; give a smaller scale."
            )

"""How large a photo may become: said from its header, before it is decoded or anything is written."""

import contextlib
import math
from pathlib import Path

from sspir.errors import UserError
from sspir.images.io import ImageError, read_size
from sspir.numbers import POSITIVE

MAX_OUTPUT_PIXELS = 400_000_000
"""Pixels an enlarged photo may have unless the caller allows more."""


def enlarged(size: tuple[int, int], scale: float, most: float, name: object = "The photo") -> tuple[int, int]:
    """Height and width of an enlarged photo.

    Args:
        size: height and width of the photo.
        scale: how much larger.
        most: pixels it may have then; infinity for any number.
        name: of the photo, for the message.

    Raises:
        UserError: it would have more, or the scale is none.
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
    """Refuse a photo that would be too large; a file that is no photo is left to reading, which says why.

    Args:
        path: of the photo.
        scale: how much larger.
        most: see `enlarged`.

    Raises:
        UserError: see `enlarged`.
    """
    with contextlib.suppress(ImageError):
        enlarged(read_size(path), scale, most, path)

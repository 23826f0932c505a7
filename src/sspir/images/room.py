"""How large a restored photo is to be, and may become: by its header, before anything is decoded or written."""

import contextlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sspir.errors import UserError
from sspir.images.encode import LONGEST, file_format
from sspir.images.io import ImageError, read_size
from sspir.memory import capacity_bytes
from sspir.numbers import COUNT, POSITIVE

MAX_OUTPUT_PIXELS = 400_000_000
"""Pixels an enlarged photo may have unless the caller allows more."""


@dataclass(frozen=True)
class Size:
    """How large a restored photo is to be, by one rule; its shape is kept.

    Args:
        scale: times as large as the photo.
        box: width and height in pixels, which it fits into, as large as it can.
        long_side: pixels of its longer side.
        short_side: pixels of its shorter side.
        max_side: pixels that its longer side has at most, whatever the rule says.

    Raises:
        UserError: there is no rule, or more than one, or a number is none of its range.
    """

    scale: float | None = None
    box: tuple[int, int] | None = None
    long_side: int | None = None
    short_side: int | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        rules = {name: value for name, value in self.asked().items() if name != "max_side"}
        if len(rules) != 1:
            told = " and ".join(rules) or "none"
            raise UserError(f"Size takes one of scale, box, long_side and short_side; it got {told}.")
        if self.box is not None and len(self.box) != 2:
            raise UserError(f"box: {self.box} is no width and height.")
        for name, value in self.asked().items():
            for number in value if name == "box" else [value]:
                (POSITIVE if name == "scale" else COUNT).require(name, number)

    def asked(self) -> dict[str, Any]:
        """What was given, as JSON holds it."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(value) if name == "box" else value for name, value in given.items()}

    def scale_of(self, height: int, width: int) -> float:
        """How much larger than a photo of this height and width its result is to be."""
        most = math.inf if self.max_side is None else self.max_side / max(height, width)
        if self.box is not None:
            return min(self.box[0] / width, self.box[1] / height, most)
        if self.long_side is not None:
            return min(self.long_side / max(height, width), most)
        if self.short_side is not None:
            return min(self.short_side / min(height, width), most)
        return min(self.scale or 1.0, most)


def recorded(scale: float | Size) -> float | dict[str, Any]:
    """A scale or rule as records hold it."""
    return scale.asked() if isinstance(scale, Size) else scale


def enlarged(size: tuple[int, int], scale: float | Size, most: float, name: object = "The photo") -> tuple[int, int]:
    """Height and width of an enlarged photo.

    Args:
        size: height and width of the photo.
        scale: how much larger, or the rule that says so.
        most: pixels that the enlarged photo may have; infinity for any number.
        name: of the photo, for the message.

    Raises:
        UserError: the enlarged photo would have more pixels, or the scale is no positive number.
    """
    height, width = size
    scale = POSITIVE.require("scale", scale.scale_of(height, width) if isinstance(scale, Size) else scale)
    if (pixels := height * width * scale**2) > most:
        largest = math.floor(math.sqrt(most / (height * width)) * 1000) / 1000
        raise UserError(
            f"{name} of {width} x {height} pixels would have {pixels / 1e6:.6g} megapixels at scale {scale:g}, more "
            f"than the limit of {most / 1e6:g}; the largest scale that fits is {largest:g}, or raise "
            f"max_output_pixels (--max-output-pixels)."
        )
    return max(1, round(height * scale)), max(1, round(width * scale))


def require_room(path: str | Path, scale: float | Size, most: float, suffix: str = ".png") -> None:
    """Refuse a photo that would become too large; a file that is no photo passes, and is refused when it is read.

    Args:
        path: of the photo.
        scale: see `enlarged`.
        most: see `enlarged`.
        suffix: of the result's file.

    Raises:
        UserError: see `enlarged`; the result's format holds no picture of that size; or this machine could not even
            hold the result, in 8 bits.
    """
    with contextlib.suppress(ImageError):
        height, width = enlarged(read_size(path), scale, most, path)
        if (needed := 3 * height * width) > (held := capacity_bytes(torch.device("cpu"))):
            raise UserError(
                f"{path} at {width} x {height} pixels would take {needed / 2**30:.4g} GiB, and this machine has "
                f"{held / 2**30:.4g}; give a smaller scale."
            )
        if max(height, width) > (longest := LONGEST.get(file_format(suffix), math.inf)):
            raise UserError(
                f"{path} at {width} x {height} pixels would be too large for {suffix} files, whose sides have at most "
                f"{longest:,}; give a smaller scale, or --format png."
            )

"""Resizing with a factor or a kernel drawn per image."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sspir.degradation.opencv import Array, opencv_applies, through_opencv
from sspir.degradation.operation import Operation, Size, Step, checked_range, checked_weights, choice, integer, uniform
from sspir.device import sent
from sspir.errors import UserError

OPENCV_MODES = {
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST_EXACT,
}
MODES = tuple(OPENCV_MODES)


class Resampling(Operation):
    """Base class of the operations that resize, by an interpolation drawn per image.

    Args:
        modes: interpolations to draw from, each as likely: area, bilinear, bicubic, nearest.
        antialias: widen the kernel of bilinear and bicubic when shrinking, as Pillow does. The published
            degradations do not: their aliasing is part of what a model learns to repair.
    """

    def __init__(self, modes: Sequence[str], antialias: bool) -> None:
        if not modes or set(modes) - set(MODES):
            raise UserError(f"{type(self).__name__}.modes is {list(modes)}: choose from {', '.join(MODES)}.")
        self.modes = list(modes)
        self.antialias = antialias

    def step(self, generator: Generator, size: Sequence[int]) -> Step:
        """Draw the interpolation; returns the step that resizes to this height and width."""
        mode = self.modes[integer(generator, 0, len(self.modes) - 1)]
        return {"size": list(size), "mode": mode, "antialias": self.antialias}

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Resize: (B, 3, H, W) -> (B, 3, h, w); every step has the same "size"."""
        return resize_each(images, steps)


class Resize(Resampling):
    """Resize to the final size of the degradation; arguments as of `Resampling`."""

    def __init__(self, modes: Sequence[str] = ("bicubic",), antialias: bool = False) -> None:
        super().__init__(modes, antialias)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw the interpolation."""
        return self.step(generator, target)


class RandomResize(Resampling):
    """Enlarge, shrink or keep, by a factor drawn per image (Real-ESRGAN, arXiv 2107.10833, section 3.1).

    Args:
        up: weight of enlarging.
        down: weight of shrinking.
        keep: weight of keeping the size.
        factors: smallest factor of shrinking and largest of enlarging.
        relative_to: what the factor multiplies: the size of the "input", or the "target" of the degradation
            (as in the second order of Real-ESRGAN).
        modes: interpolations to draw from, each as likely.
        antialias: as of `Resampling`.
    """

    def __init__(
        self,
        up: float,
        down: float,
        keep: float,
        factors: Sequence[float],
        relative_to: Literal["input", "target"] = "input",
        modes: Sequence[str] = ("area", "bilinear", "bicubic"),
        antialias: bool = False,
    ) -> None:
        self.weights = checked_weights("RandomResize up, down, keep", [up, down, keep])
        self.factors = checked_range("RandomResize.factors", factors, 0.01, 16)
        if relative_to not in ("input", "target"):
            raise UserError(f"RandomResize.relative_to is {relative_to!r}: give input or target.")
        self.relative_to = relative_to
        super().__init__(modes, antialias)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw direction, factor and interpolation."""
        smallest, largest = self.factors
        direction = choice(generator, self.weights)
        ranges = [(1.0, max(largest, 1.0)), (min(smallest, 1.0), 1.0), (1.0, 1.0)]
        factor = uniform(generator, *ranges[direction])
        base = size if self.relative_to == "input" else target
        return self.step(generator, [max(1, int(length * factor)) for length in base])


class Downsample(Resampling):
    """Shrink by a divisor drawn uniformly, as BSRGAN and CodeFormer do.

    Args:
        divisor: range of what height and width are divided by.
        modes: interpolations to draw from, each as likely.
        antialias: as of `Resampling`.
    """

    def __init__(
        self, divisor: Sequence[float], modes: Sequence[str] = ("area", "bilinear", "bicubic"), antialias: bool = False
    ) -> None:
        self.divisor = checked_range("Downsample.divisor", divisor, 1, 1000)
        super().__init__(modes, antialias)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw divisor and interpolation."""
        divisor = uniform(generator, *self.divisor)
        return self.step(generator, [max(1, int(length / divisor)) for length in size])


def resize_each(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Resize image i by step i ("mode", "antialias"), all to one "size": (B, 3, H, W) -> (B, 3, h, w) in [0, 1]."""
    size = (steps[0]["size"][0], steps[0]["size"][1])
    if tuple(images.shape[-2:]) == size:
        return images
    if opencv_applies(images) and not any(step["antialias"] for step in steps):
        return through_opencv(images, [partial(_resize_array, size=size, mode=step["mode"]) for step in steps])
    return torch.cat(
        [resize_images(image[None], size, s["mode"], s["antialias"]) for image, s in zip(images, steps, strict=True)]
    )


def resize_images(images: Tensor, size: Size, mode: str, antialias: bool) -> Tensor:
    """Resize all alike: (B, 3, H, W) -> (B, 3, *size), clamped to [0, 1] as bicubic overshoots.

    Area takes the mean over the pixel's footprint; bilinear and bicubic (a = -0.75) are torch's and OpenCV's.
    """
    if mode == "area":
        shares = (_footprints(old, new).to(images.dtype) for old, new in zip(images.shape[-2:], size, strict=True))
        rows, columns = (sent(each, images.device) for each in shares)
        return rows @ images @ columns.T
    if mode == "nearest":
        return F.interpolate(images, size, mode="nearest-exact")
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=antialias).clamp(0, 1)


def _resize_array(image: Array, size: Size, mode: str) -> Array:
    resized = cv2.resize(image, (size[1], size[0]), interpolation=OPENCV_MODES[mode])
    return np.clip(resized, 0, 1, out=resized) if mode == "bicubic" else resized


def _footprints(old: int, new: int) -> Tensor:
    """(new, old) share of each old pixel in each new one, on a line."""
    ends = torch.arange(new + 1, dtype=torch.float64) * (old / new)
    pixels = torch.arange(old, dtype=torch.float64)
    covered = (ends[:, None] - pixels).clamp(0, 1)  # how much of each pixel lies before each end
    return (covered[1:] - covered[:-1]) * (new / old)

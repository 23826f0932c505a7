"""Unsharp masking, and rounding to 8 bits."""

from collections.abc import Sequence

import cv2
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sspir.degradation.filtering import reflect
from sspir.degradation.operation import Operation, Size, Step
from sspir.device import sent
from sspir.numbers import REAL, Numbers


class Sharpen(Operation):
    """Unsharp mask where the image has detail, as Real-ESRGAN sharpens its truth (arXiv 2107.10833, section 3.4).

    Args:
        amount: weight of the detail that is added; 0 changes nothing.
        radius: size of the Gaussian, pixels; made odd by adding 1.
        threshold: detail weaker than this is left alone, levels of 255.
    """

    def __init__(self, amount: float = 0.5, radius: int = 50, threshold: float = 10) -> None:
        self.amount = REAL.require("Sharpen.amount", amount)
        self.radius = Numbers(int, 0, 1000).require("Sharpen.radius", radius)
        self.threshold = REAL.require("Sharpen.threshold", threshold)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Nothing is random: the constructor's numbers."""
        return {"amount": self.amount, "radius": self.radius, "threshold": self.threshold}

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Sharpen: (B, 3, H, W) in [0, 1] -> the same."""
        settings = ((step["amount"], step["radius"], step["threshold"]) for step in steps)
        return torch.cat([sharpen(image[None], *each) for image, each in zip(images, settings, strict=True)])

    def __call__(self, images: Tensor) -> Tensor:
        """Sharpen all alike: (B, 3, H, W) in [0, 1] -> the same."""
        return sharpen(images, self.amount, self.radius, self.threshold)


class Quantize(Operation):
    """Rounds to the 256 levels of an 8-bit file; gradients pass as if it were not there."""

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Nothing is random."""
        return {}

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Clamp and round: (B, 3, H, W) -> the same, in [0, 1]."""
        images = images.clamp(0, 1)
        return images + ((images * 255).round() / 255 - images).detach()


def sharpen(images: Tensor, amount: float, radius: int, threshold: float) -> Tensor:
    """Unsharp mask, (B, 3, H, W) in [0, 1] -> the same; arguments as of `Sharpen`."""
    column = torch.from_numpy(cv2.getGaussianKernel(radius | 1, 0)).float()
    residual = images - _blur(images, column)
    mask = (residual.abs() * 255 > threshold).to(images)
    sharp = (images + amount * residual).clamp(0, 1)
    return torch.lerp(images, sharp, _blur(mask, column))


def _blur(images: Tensor, column: Tensor) -> Tensor:
    """Separable filter with a reflected border: (B, C, H, W) -> the same."""
    margin = len(column) // 2
    channels = images.shape[1]
    weight = sent(column.to(images.dtype), images.device).reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    rows = F.conv2d(reflect(images, margin), weight, groups=channels)
    return F.conv2d(rows, weight.transpose(2, 3), groups=channels)

"""Gaussian and Poisson noise, of its own colour and strength for every image.

Noise maps are drawn on the CPU from the seed that stands in the step: an image gets the same noise alone or in a
batch, in any worker and on any device.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sspir.degradation.operation import (
    Operation,
    Size,
    Step,
    chance,
    checked_probability,
    checked_range,
    integer,
    uniform,
)

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG's
LARGEST_SEED = 2**53 - 1  # JSON readers of other languages keep whole numbers up to here


class GaussianNoise(Operation):
    """Additive Gaussian noise.

    Args:
        sigma: range of the standard deviation, in levels of 255.
        gray: probability that the three channels get the same noise.
    """

    def __init__(self, sigma: Sequence[float], gray: float = 0.0) -> None:
        self.sigma = checked_range("GaussianNoise.sigma", sigma, 0, 255)
        self.gray = checked_probability("GaussianNoise.gray", gray)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw strength, colour and the seed of the noise map."""
        return {
            "sigma": uniform(generator, *self.sigma),
            "gray": chance(generator, self.gray),
            "seed": integer(generator, 0, LARGEST_SEED),
        }

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Add the noise and clamp: (B, 3, H, W) in [0, 1] -> the same."""
        noisy = []
        for image, step in zip(images, steps, strict=True):
            shape = (1 if step["gray"] else 3, *image.shape[-2:])
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(step["seed"]))
            noisy.append(image + noise.to(image) * (step["sigma"] / 255))
        return torch.stack(noisy).clamp(0, 1)


class PoissonNoise(Operation):
    """Shot noise: its variance grows with brightness (Real-ESRGAN, arXiv 2107.10833, section 3.1).

    The image is counted in as many photons as it has grey levels (the next power of two), as BasicSR does; what is
    added is the difference between the count and its expectation, times `scale`.

    Args:
        scale: range of the factor of the noise.
        gray: probability that the three channels get the same noise, that of the image's luma.
    """

    def __init__(self, scale: Sequence[float], gray: float = 0.0) -> None:
        self.scale = checked_range("PoissonNoise.scale", scale, 0, 100)
        self.gray = checked_probability("PoissonNoise.gray", gray)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw strength, colour and the seed of the noise map."""
        return {
            "scale": uniform(generator, *self.scale),
            "gray": chance(generator, self.gray),
            "seed": integer(generator, 0, LARGEST_SEED),
        }

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Add the noise and clamp: (B, 3, H, W) in [0, 1] -> the same."""
        noisy = []
        for image, step in zip(images, steps, strict=True):
            light = luma(image) if step["gray"] else image
            generator = torch.Generator().manual_seed(step["seed"])
            noise = _shot_noise((light * 255).round().clamp(0, 255).byte().cpu(), generator)
            noisy.append(image + noise.to(image) * step["scale"])
        return torch.stack(noisy).clamp(0, 1)


def luma(image: Tensor) -> Tensor:
    """Brightness of RGB (..., 3, H, W) -> (..., 1, H, W)."""
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)


def _shot_noise(levels: Tensor, generator: Generator) -> Tensor:
    """Poisson noise of an image of 256 levels, uint8 (C, H, W): the count minus its mean, float32, of unit 1."""
    distinct = int(torch.bincount(levels.flatten(), minlength=256).count_nonzero())
    photons = float(2 ** (distinct - 1).bit_length())
    mean = levels.float() / 255
    return torch.poisson(mean * photons, generator=generator) / photons - mean

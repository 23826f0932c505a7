"""The operations in which BSRGAN (arXiv 2103.14006) differs from Real-ESRGAN."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sspir.degradation.blur import checked_kernel_size, draw_kernel_size
from sspir.degradation.filtering import filter_images
from sspir.degradation.kernels import gaussian_kernel, shifted_gaussian_kernel
from sspir.degradation.noise import LARGEST_SEED, seeded_normal
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
from sspir.device import sent
from sspir.numbers import COUNT


class AnisotropicBlur(Operation):
    """Gaussian blur whose two variances are drawn uniformly (section 3.1); Real-ESRGAN draws deviations.

    Args:
        kernel_size: smallest and largest size, odd, pixels.
        variance: range along each of the kernel's own axes, square pixels.
    """

    def __init__(self, kernel_size: Sequence[int], variance: Sequence[float]) -> None:
        self.kernel_size = checked_kernel_size("AnisotropicBlur.kernel_size", kernel_size)
        self.variance = checked_range("AnisotropicBlur.variance", variance, 0, 1000)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw size, variances and rotation."""
        return {
            "kernel_size": draw_kernel_size(generator, self.kernel_size),
            "sigma": [math.sqrt(uniform(generator, *self.variance)) for _ in range(2)],
            "rotation": uniform(generator, 0, math.pi),
        }

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Filter each image with its kernel, the border reflected: (B, 3, H, W) -> the same."""
        kernels = [gaussian_kernel(s["kernel_size"], (s["sigma"][0], s["sigma"][1]), s["rotation"]) for s in steps]
        return filter_images(images, kernels)


class NearestDownsample(Operation):
    """A small Gaussian blur, then every `factor`th pixel (section 3.2): aliased, but not shifted.

    Args:
        factor: of shrinking.
        sigma: range of the standard deviation of the blur, pixels.
        kernel_size: of the blur, odd, pixels.
    """

    def __init__(self, factor: int, sigma: Sequence[float], kernel_size: int = 25) -> None:
        self.factor = COUNT.require("NearestDownsample.factor", factor)
        self.sigma = checked_range("NearestDownsample.sigma", sigma, 0.01, 100)
        self.kernel_size = checked_kernel_size("NearestDownsample.kernel_size", [kernel_size] * 2)[0]

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw the strength of the blur."""
        return {
            "sigma": uniform(generator, *self.sigma),
            "kernel_size": self.kernel_size,
            "factor": self.factor,
            "size": [-(-length // self.factor) for length in size],
        }

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Blur and pick: (B, 3, H, W) -> (B, 3, h, w), the same factor for all."""
        factor = steps[0]["factor"]
        # the first pixel of each block stands for its centre
        kernels = [shifted_gaussian_kernel(s["kernel_size"], s["sigma"], (factor - 1) / 2) for s in steps]
        return filter_images(images, kernels)[..., ::factor, ::factor].clamp(0, 1)


class CorrelatedNoise(Operation):
    """Gaussian noise whose three channels vary together (section 3.3).

    Args:
        sigma: of the strongest mixture, in levels of 255.
        speckle: probability that the noise is multiplied by the image.
    """

    def __init__(self, sigma: float, speckle: float = 0.0) -> None:
        self.sigma = checked_range("CorrelatedNoise.sigma", [sigma] * 2, 0, 255)[0]
        self.speckle = checked_probability("CorrelatedNoise.speckle", speckle)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw a random covariance and the seed of the noise map."""
        strengths = torch.rand(3, generator=generator, dtype=torch.float64)
        axes = torch.linalg.svd(torch.rand(3, 3, generator=generator, dtype=torch.float64))[0]
        covariance = (axes.T @ torch.diag(strengths) @ axes).abs()
        values, vectors = torch.linalg.eigh(covariance)
        mixing = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
        return {
            "sigma": self.sigma,
            "mixing": mixing.tolist(),
            "speckle": chance(generator, self.speckle),
            "seed": integer(generator, 0, LARGEST_SEED),
        }

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Add the noise and clamp: (B, 3, H, W) in [0, 1] -> the same."""
        noisy = []
        for image, step in zip(images, steps, strict=True):
            mixing = sent(torch.tensor(step["mixing"], dtype=image.dtype), image.device) * (step["sigma"] / 255)
            noise = torch.einsum("cd,dhw->chw", mixing, seeded_normal(3, image, step["seed"]))
            noisy.append(image + (noise * image if step["speckle"] else noise))
        return torch.stack(noisy).clamp(0, 1)

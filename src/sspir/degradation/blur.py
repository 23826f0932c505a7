"""Blurring with a kernel drawn per image."""

import math
from collections.abc import Mapping, Sequence

from torch import Generator, Tensor

from sspir.degradation.filtering import filter_images
from sspir.degradation.kernels import Kernel, gaussian_kernel, plateau_kernel, sinc_kernel
from sspir.degradation.operation import (
    Operation,
    Size,
    Step,
    chance,
    checked_probability,
    checked_range,
    checked_weights,
    choice,
    integer,
    uniform,
)
from sspir.errors import UserError

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


class Blur(Operation):
    """Blur of Real-ESRGAN (arXiv 2107.10833, section 3.1): a kernel out of six Gaussian families, or a sinc.

    Args:
        kernel_size: smallest and largest size, odd, pixels; every odd size between is as likely.
        kernels: weight of each family, by the names in `KERNELS`.
        sigma: range of the standard deviation, pixels; anisotropic kernels draw two and a rotation.
        beta_generalized: range of the shape of generalised Gaussians, around 1.
        beta_plateau: range of the shape of plateaus, around 1.
        sinc: probability of a sinc kernel in place of all the others.
    """

    def __init__(
        self,
        kernel_size: Sequence[int],
        kernels: Mapping[str, float],
        sigma: Sequence[float],
        beta_generalized: Sequence[float] = (1.0, 1.0),
        beta_plateau: Sequence[float] = (1.0, 1.0),
        sinc: float = 0.0,
    ) -> None:
        self.kernel_size = checked_kernel_size("Blur.kernel_size", kernel_size)
        if unknown := set(kernels) - set(KERNELS):
            raise UserError(f"Blur.kernels has {sorted(unknown)}: the families are {', '.join(KERNELS)}.")
        self.kernels = list(kernels)
        self.weights = checked_weights("Blur.kernels", list(kernels.values()))
        self.sigma = checked_range("Blur.sigma", sigma, 0, 100)
        self.betas = {
            "generalized": checked_range("Blur.beta_generalized", beta_generalized, 0, 100),
            "plateau": checked_range("Blur.beta_plateau", beta_plateau, 0, 100),
        }
        self.sinc = checked_probability("Blur.sinc", sinc)

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw size and family, then that family's parameters."""
        kernel_size = draw_kernel_size(generator, self.kernel_size)
        if chance(generator, self.sinc):
            # a small kernel cannot hold the long ripples of a low cut-off (Real-ESRGAN's data set code)
            low = math.pi / 3 if kernel_size < 13 else math.pi / 5
            return {"kernel": "sinc", "kernel_size": kernel_size, "cutoff": uniform(generator, low, math.pi)}
        family = self.kernels[choice(generator, self.weights)]
        sigma = [uniform(generator, *self.sigma)] * 2
        rotation = 0.0
        if not family.endswith("_iso") and family != "iso":
            sigma[1] = uniform(generator, *self.sigma)
            rotation = uniform(generator, -math.pi, math.pi)
        step = {"kernel": family, "kernel_size": kernel_size, "sigma": sigma, "rotation": rotation}
        if "_" in family:
            step["beta"] = _draw_beta(generator, *self.betas[family.split("_")[0]])
        return step

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Filter each image with its kernel, the border reflected: (B, 3, H, W) -> the same."""
        return filter_images(images, [kernel_of(step) for step in steps])


class Sinc(Operation):
    """The last filter of Real-ESRGAN: ringing and overshoot (arXiv 2107.10833, section 3.3).

    Args:
        kernel_size: smallest and largest size, odd, pixels.
        cutoff: range of the cut-off frequency, radians per pixel.
    """

    def __init__(self, kernel_size: Sequence[int], cutoff: Sequence[float] = (math.pi / 3, math.pi)) -> None:
        self.kernel_size = checked_kernel_size("Sinc.kernel_size", kernel_size)
        self.cutoff = checked_range("Sinc.cutoff", cutoff, 0.01, math.pi)  # at 0 nothing passes

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw size and cut-off."""
        return {
            "kernel_size": draw_kernel_size(generator, self.kernel_size),
            "cutoff": uniform(generator, *self.cutoff),
        }

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Filter each image with its kernel, the border reflected: (B, 3, H, W) -> the same."""
        kernels = [sinc_kernel(step["kernel_size"], step["cutoff"]) for step in steps]
        return filter_images(images, kernels).clamp(0, 1)


def checked_kernel_size(name: str, values: Sequence[int]) -> tuple[int, int]:
    """Return the smallest and the largest odd kernel size, or raise a UserError that names them."""
    sizes = [int(value) for value in values]
    if len(sizes) != 2 or sizes[0] > sizes[1] or sizes[0] < 1 or not (sizes[0] % 2 and sizes[1] % 2):
        raise UserError(f"{name} is {sizes}: give the smallest and the largest size, both odd.")
    return sizes[0], sizes[1]


def draw_kernel_size(generator: Generator, sizes: tuple[int, int]) -> int:
    """Draw an odd size between the two, both included."""
    return sizes[0] + 2 * integer(generator, 0, (sizes[1] - sizes[0]) // 2)


def _draw_beta(generator: Generator, low: float, high: float) -> float:
    """Half of the shapes below 1 and half above it, as Real-ESRGAN does, so that a wide range stays balanced."""
    if low < 1 < high:
        return uniform(generator, low, 1.0) if chance(generator, 0.5) else uniform(generator, 1.0, high)
    return uniform(generator, low, high)


def kernel_of(step: Step) -> Kernel:
    """The (k, k) kernel that a step of `Blur` describes, float32, of sum 1."""
    if step["kernel"] == "sinc":
        return sinc_kernel(step["kernel_size"], step["cutoff"])
    shape = (step["kernel_size"], (step["sigma"][0], step["sigma"][1]), step["rotation"], step.get("beta", 1.0))
    return plateau_kernel(*shape) if step["kernel"].startswith("plateau") else gaussian_kernel(*shape)

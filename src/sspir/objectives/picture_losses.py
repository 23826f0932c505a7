"""Losses between two pictures: in colour, in frequency, as eyes see it, and of a pattern on flat areas."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.color import luma
from sspir.errors import UserError
from sspir.metrics.grid import detail, grid_period, seams_period, unevenness, weave
from sspir.perceptual.networks import LEAST
from sspir.perceptual.weights import load_distance

Norm = Literal["backward", "ortho"]
SHIFT = 3
"""Pixels by which a picture and its target are moved at most, before losses that look with a stride."""


def frequency_l1(prediction: Tensor, target: Tensor, norm: Norm = "backward") -> Tensor:
    """Mean absolute difference of two images' spectra, real and imaginary parts together (SSP-IR's FFT loss).

    Args:
        prediction: (B, C, H, W).
        target: (B, C, H, W).
        norm: "backward" is the un-normalised transform of the authors, whose loss grows with the image; "ortho" is
            free of the size.
    """
    spectrum = torch.fft.rfft2(prediction.float() - target.float(), norm=norm)
    return torch.view_as_real(spectrum).abs().mean()


class PictureLoss:
    """A loss of pictures (B, 3, H, W) in [0, 1], not clamped, to their targets.

    Attributes:
        shifted: whether picture and target are moved together by up to three pixels first: a loss whose network looks
            with a stride teaches a weave of that stride to a network that writes in blocks.
        least: shortest side of pictures that it takes, pixels.
    """

    shifted = False
    least = 1

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        raise NotImplementedError

    def require_side(self, name: str, side: int) -> None:
        """Refuse patches of which too little is left where they are shifted.

        Raises:
            UserError: a side is too short; the sentence begins with `name`.
        """
        if self.shifted and side - SHIFT < self.least:
            raise UserError(
                f"{name} takes pictures from {self.least} pixels, and of patches of {side} it sees {side - SHIFT}, as "
                f"they are shifted; set dataset.train.crop.size to {self.least + SHIFT} or more."
            )

    def load(self) -> None:
        """Load what the loss needs; called where its weight is not 0."""

    def networks(self) -> Iterator[nn.Module]:
        """Networks to be moved to the device of the training."""
        return iter(())


class PixelLoss(PictureLoss):
    """Mean absolute or squared difference.

    Args:
        norm: "l1" or "l2".
    """

    def __init__(self, norm: str = "l1") -> None:
        if norm not in ("l1", "l2"):
            raise UserError(f"PixelLoss: norm={norm!r} is not known; choose l1 or l2.")
        self.norm = norm

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return (F.l1_loss if self.norm == "l1" else F.mse_loss)(pictures.float(), target.float())


class FrequencyLoss(PictureLoss):
    """Mean absolute difference of the orthonormal spectra, see `frequency_l1`."""

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return frequency_l1(pictures, target, "ortho")


class PerceptualLoss(PictureLoss):
    """LPIPS or DISTS.

    Args:
        name: "lpips", "lpips_vgg" or "dists".
        path: of the weights of its features; None looks into the caches.
        precision: of its convolutions, "32" or "bf16".

    Raises:
        UserError: the precision is not known.
    """

    shifted = True
    least = LEAST

    def __init__(self, name: str, path: str | Path | None = None, precision: str | int = "32") -> None:
        if str(precision) not in ("32", "bf16"):
            raise UserError(f"PerceptualLoss: precision={precision!r} is not known; choose 32 or bf16.")
        self.name, self.path, self.precision = name, path, str(precision)

    def load(self) -> None:
        """Load the distance.

        Raises:
            UserError: its weights are not here; the sentence names the command that gets them.
        """
        self.network = load_distance(self.name, self.path)
        self.network.precision = torch.bfloat16 if self.precision == "bf16" else torch.float32

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return self.network(pictures, target).mean()

    def networks(self) -> Iterator[nn.Module]:
        """The distance."""
        yield self.network


class GridLoss(PictureLoss):
    """What the metric `grid` measures, over a batch together, in grey levels; the target plays no part.

    The mean over the pictures is what shows a pattern amid their contents: it is of the batch of one process, so that
    half the batch on each of two, or accumulated, is another loss.

    Args:
        period: of the pattern, pixels; a multiple of 4.

    Raises:
        UserError: the period is no multiple of 4.
    """

    def __init__(self, period: int = 4) -> None:
        self.period = grid_period(period)

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        means = weave(luma(255 * pictures.float()), self.period)
        return (means.mean(dim=0).var(correction=0) + 1e-4).sqrt()  # the root of nothing has no slope


class SeamsLoss(PictureLoss):
    """What the metric `seams` measures, over a batch together, as in `GridLoss`; the target plays no part.

    Args:
        period: of the places, pixels; 4, 8 or 16.

    Raises:
        UserError: the period is another.
    """

    def __init__(self, period: int = 4) -> None:
        self.period = seams_period(period)

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        along = detail(luma(255 * pictures.float()), self.period)
        return torch.stack([_rooted(*unevenness(shares.flatten(0, 1))) for shares in along]).mean()


def _rooted(mean: Tensor, excess: Tensor) -> Tensor:
    """The share of the mean that a variance comes to; the root of nothing has no slope."""
    return ((excess.clamp(min=0) + 1e-6).sqrt() - 1e-3) / (mean + 0.05)

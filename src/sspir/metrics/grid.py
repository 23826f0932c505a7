"""Patterns that strides of losses and blocks of latents leave: weaves on flat areas, seams in all that has detail."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.color import luma
from sspir.errors import UserError
from sspir.metrics.base import NoReferenceMetric, to_pixels

FLAT = 0.4  # share of a picture that counts as flat
AROUND = 9  # pixels of a side of the neighbourhood in which deviation is local
NEAR = 16  # pixels, a multiple of every period, over which detail is taken to be of one strength


class Grid(NoReferenceMetric):
    """How strong a pattern of a period is in the flattest two fifths of a picture, in grey levels of 255.

    The luma's difference to its sliding mean over 4 x 4 pixels is averaged by place within the period; a pattern leaves
    these averages different from each other, and their standard deviation is the value. A photo has .01 to .05.

    Args:
        period: of the pattern, pixels; a multiple of 4.

    Raises:
        UserError: the period is no multiple of 4.
    """

    higher_is_better = False

    def __init__(self, period: int = 8) -> None:
        super().__init__()
        if period < 4 or period % 4:
            raise UserError(f"grid: the period is {period}; give a multiple of 4, such as 4 or 8.")
        self.period = period

    def score(self, preds: Tensor) -> Tensor:
        """Values (B,) of preds (B, 3, H, W), RGB in [0, 1], lower is better."""
        return weave(luma(to_pixels(preds)), self.period).std(dim=(1, 2), correction=0)


class Seams(NoReferenceMetric):
    """How much the strength of detail depends on its place within a period; 0 where no place is like another.

    Each difference of neighbours is divided by the mean of those around it, so that textures count as edges do. The
    quotients are averaged by place within the period; the value is the deviation of these averages, as a share of their
    mean, of differences along rows and along columns. Unlike a weave, lines and dots of any sign are seen, amid texture
    too. Photos have .03 to .06.

    Args:
        period: of the places, pixels; 4, 8 or 16.

    Raises:
        UserError: the period is another.
    """

    higher_is_better = False

    def __init__(self, period: int = 4) -> None:
        super().__init__()
        if period not in (4, 8, 16):
            raise UserError(f"seams: the period is {period}; give 4, 8 or 16.")
        self.period = period

    def score(self, preds: Tensor) -> Tensor:
        """Values (B,) of preds (B, 3, H, W), RGB in [0, 1], lower is better."""
        shares = detail(luma(to_pixels(preds)), self.period).flatten(2)
        return (shares.std(dim=2, correction=0) / shares.mean(dim=2).clamp(min=1e-6)).mean(dim=1)


def detail(grey: Tensor, period: int) -> Tensor:
    """Strengths (B, 2, period, period) of what differs along rows and columns of lumas (B, 1, H, W), by place."""
    return torch.stack([_along_rows(grey, period), _along_rows(grey.mT, period).mT], dim=1)


def _along_rows(grey: Tensor, period: int) -> Tensor:
    steps, side = grey.diff(dim=-1).abs(), NEAR // 2
    around = F.avg_pool2d(F.pad(steps, (side,) * 4, mode="replicate"), NEAR, 1)[..., :-1, :-1]
    shares = steps / (around + 1)  # a level more: rounding is no detail
    rows, columns = (length // period for length in shares.shape[-2:])
    whole = shares[..., : rows * period, : columns * period]
    return whole.reshape(-1, rows, period, columns, period).mean(dim=(1, 3))


def weave(grey: Tensor, period: int) -> Tensor:
    """Means (B, period, period) of what lumas (B, 1, H, W) have beside their sliding means, in flat areas, by place."""
    side = AROUND // 2
    near = F.pad(grey, (side,) * 4, mode="reflect")
    variance = F.avg_pool2d(near.square(), AROUND, 1) - F.avg_pool2d(near, AROUND, 1).square()
    most = variance.flatten(1).kthvalue(max(1, int(FLAT * variance[0].numel()))).values
    flat = (variance <= most[:, None, None, None]).to(grey)  # a mask as an index would make a GPU wait
    residual = grey - F.avg_pool2d(F.pad(grey, (1, 2, 1, 2), mode="reflect"), 4, 1)
    return _by_place(residual * flat, period) / _by_place(flat, period).clamp(min=1)


def _by_place(values: Tensor, period: int) -> Tensor:
    """Sums (B, period, period) of values (B, 1, H, W) by their place within the period."""
    height, width = values.shape[-2:]
    whole = F.pad(values, (0, -width % period, 0, -height % period))
    rows, columns = (side // period for side in whole.shape[-2:])
    return whole.view(-1, rows, period, columns, period).sum(dim=(1, 3))

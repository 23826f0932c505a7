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
        UserError: the period is no multiple of 4, or a picture has less than 5 pixels on a side.
    """

    higher_is_better = False

    def __init__(self, period: int = 8) -> None:
        super().__init__()
        self.period = grid_period(period)

    def score(self, preds: Tensor) -> Tensor:
        """Values (B,) of preds (B, 3, H, W), RGB in [0, 1], lower is better."""
        return weave(luma(to_pixels(preds)), self.period).std(dim=(1, 2), correction=0)


class Seams(NoReferenceMetric):
    """How much the strength of detail depends on its place within a period; 0 where no place is like another.

    Each difference of neighbours is divided by the mean of those around it, so that textures count as edges do. The
    quotients are averaged by place within the period; the value is the deviation of these averages, as a share of their
    mean, of differences along rows and along columns. Unlike a weave, lines and dots of any sign are seen, amid texture
    too. What so many pixels without any pattern would have is taken off.

    Args:
        period: of the places, pixels; 4, 8 or 16.

    Raises:
        UserError: the period is another, or a picture has not two of them.
    """

    higher_is_better = False

    def __init__(self, period: int = 4) -> None:
        super().__init__()
        self.period = seams_period(period)

    def score(self, preds: Tensor) -> Tensor:
        """Values (B,) of preds (B, 3, H, W), RGB in [0, 1], lower is better."""
        along = [unevenness(shares) for shares in detail(luma(to_pixels(preds)), self.period)]
        return torch.stack([excess.clamp(min=0).sqrt() / mean.clamp(min=1e-6) for mean, excess in along]).mean(dim=0)


def grid_period(period: int) -> int:
    """The period, if it is one.

    Raises:
        UserError: it is none.
    """
    if period < 4 or period % 4:
        raise UserError(f"grid: the period is {period}; give a multiple of 4, such as 4 or 8.")
    return period


def seams_period(period: int) -> int:
    """The period, if it is one.

    Raises:
        UserError: it is none.
    """
    if period not in (4, 8, 16):
        raise UserError(f"seams: the period is {period!r}; give 4, 8 or 16.")
    return period


def detail(grey: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Differences of lumas (B, 1, H, W) by those around, (B, periods, places): along rows, and along columns.

    Raises:
        UserError: a picture has not two periods.
    """
    if min(grey.shape[-2:]) < 2 * period:
        height, width = grey.shape[-2:]
        raise UserError(f"seams: a picture of {width} x {height} is too small for a period of {period}.")
    return _along_rows(grey, period), _along_rows(grey.mT, period)


def unevenness(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Means (...) of what `detail` found (..., periods, places), and the variance of its means by place.

    The variance is above that of means of as many numbers without a pattern; it may be negative.
    """
    by_place, within = shares.mean(dim=-2), shares.var(dim=-2, correction=0)
    return by_place.mean(dim=-1), by_place.var(dim=-1, correction=0) - within.mean(dim=-1) / shares.shape[-2]


def _along_rows(grey: Tensor, period: int) -> Tensor:
    steps, side = grey.diff(dim=-1).abs(), NEAR // 2
    around = F.avg_pool2d(F.pad(steps, (side,) * 4, mode="replicate"), NEAR, 1)[..., :-1, :-1]
    shares = steps / (around + 1)  # a level more: rounding is no detail
    rows, columns = (length // period for length in shares.shape[-2:])
    whole = shares[..., : rows * period, : columns * period].reshape(-1, rows, period, columns, period)
    return whole.transpose(2, 3).reshape(-1, rows * columns, period**2)


def weave(grey: Tensor, period: int) -> Tensor:
    """Means (B, period, period) of what lumas (B, 1, H, W) have beside their sliding means, in flat areas, by place.

    Raises:
        UserError: a picture has no neighbourhood of `AROUND` pixels, its edges mirrored.
    """
    side = AROUND // 2
    if min(grey.shape[-2:]) <= side:
        height, width = grey.shape[-2:]
        raise UserError(f"grid: a picture of {width} x {height} is too small; {side + 1} x {side + 1} is the least.")
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

"""Weaves: regular patterns that strides of losses and blocks of latents leave on flat areas."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.color import luma
from sspir.errors import UserError
from sspir.metrics.base import NoReferenceMetric, to_pixels

FLAT = 0.4  # share of a picture that counts as flat
AROUND = 9  # pixels of a side of the neighbourhood in which deviation is local


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
        return torch.stack([weave(grey, self.period).std(correction=0) for grey in luma(to_pixels(preds))])


def weave(grey: Tensor, period: int) -> Tensor:
    """Means (period^2,) of what one luma (1, H, W) in [0, 255] has beside its sliding mean, in flat areas, by place."""
    side = AROUND // 2
    near = F.pad(grey[None], (side,) * 4, mode="reflect")
    variance = F.avg_pool2d(near.square(), AROUND, 1) - F.avg_pool2d(near, AROUND, 1).square()
    flat = variance[0, 0] <= variance.flatten().kthvalue(max(1, int(FLAT * variance.numel()))).values
    residual = (grey[None] - F.avg_pool2d(F.pad(grey[None], (1, 2, 1, 2), mode="reflect"), 4, 1))[0, 0]
    rows, columns = (torch.arange(length, device=grey.device) % period for length in residual.shape)
    place = (rows[:, None] * period + columns)[flat]
    sums, counts = (
        torch.zeros(period**2, device=grey.device).index_add(0, place, values)
        for values in (residual[flat], torch.ones_like(residual[flat]))
    )
    return sums / counts.clamp(min=1)

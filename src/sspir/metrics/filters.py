"""The one Gaussian that SSIM, VIF, NIQE and the detail ratios are made of."""

import torch
from torch import Tensor


def gaussian_blur(planes: Tensor, size: int, sigma: float) -> Tensor:
    """Blur planes (..., H, W) with a Gaussian window, only where it fits: (..., H - size + 1, W - size + 1).

    Sums of shifted slices: six times faster on a CPU than `conv2d` with one channel.

    Args:
        planes: what to blur, in its own precision.
        size: of the square window, odd, in pixels.
        sigma: in pixels.
    """
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    taps = (kernel / kernel.sum()).tolist()
    for dim in (-1, -2):
        length = planes.shape[dim] - size + 1
        total = planes.narrow(dim, 0, length) * taps[0]
        for start, tap in enumerate(taps[1:], start=1):
            total.add_(planes.narrow(dim, start, length), alpha=tap)
        planes = total
    return planes

"""PSNR, SSIM and MS-SSIM by the recipe that the tables of real-world super-resolution were made with.

The recipe is pyiqa's with `test_y_channel=True, color_space="ycbcr"`, as the metric scripts of OSEDiff and InvSR
call it. Three of its choices move numbers more than methods do: Y is studio-range BT.601 (full-range YIQ lowers
PSNR by 1.32 dB), Y stays unrounded for PSNR but is rounded for SSIM, and no border is cropped.
"""

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import FullReferenceMetric, check_pair, for_float64, to_pixels
from sspir.metrics.filters import gaussian_blur

WINDOW = 11  # pixels, of SSIM's Gaussian (Wang et al. 2004, section III-C)
SIGMA = 1.5  # pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2


def y_channel(pixels: Tensor) -> Tensor:
    """BT.601 Y (B, 1, H, W) in [16, 235] of RGB pixels (B, 3, H, W) in 0..255."""
    red, green, blue = pixels.unbind(dim=1)
    return (16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255).unsqueeze(1)


def psnr(preds: Tensor, target: Tensor, channels: str = "y", crop: int = 0) -> Tensor:
    """Peak signal-to-noise ratio in dB (B,), at most 80 (identical images), higher is better.

    Args:
        preds: restored (B, 3, H, W) in [0, 1], RGB.
        target: truth, the same shape.
        channels: "y" (unrounded) or "rgb".
        crop: border in pixels that is left out on each side.
    """
    restored, truth = _planes(preds, target, channels, crop)
    error = for_float64(((restored - truth) / 255).square()).mean(dim=(1, 2, 3), dtype=torch.float64)
    return (10 * torch.log10(1 / (error + 1e-8))).float()


def ssim(preds: Tensor, target: Tensor, channels: str = "y", crop: int = 0) -> Tensor:
    """Structural similarity (B,) in [0, 1], higher is better (Wang et al. 2004); arguments as `psnr`.

    11 x 11 Gaussian window, only where it fits, Y rounded to integers, the structure term clipped at 0.

    Raises:
        UserError: a side is shorter than 11 pixels.
    """
    restored, truth = _planes(preds, target, channels, crop)
    similarity, _ = _ssim_terms(restored.round(), truth.round())
    return similarity.mean(dim=1)


def ms_ssim(preds: Tensor, target: Tensor, channels: str = "y", crop: int = 0) -> Tensor:
    """SSIM over five halvings (B,) in [0, 1], higher is better (Wang et al. 2003); arguments as `psnr`.

    Raises:
        UserError: a side is shorter than 161 pixels, so that the window does not fit into the smallest scale.
    """
    restored, truth = (plane.round() for plane in _planes(preds, target, channels, crop))
    if min(restored.shape[-2:]) < (smallest := (WINDOW - 1) * 16 + 1):
        size = tuple(restored.shape[-2:])
        raise UserError(f"MS-SSIM needs sides of at least {smallest} pixels, got {size}; leave it out.")
    product = torch.ones(restored.shape[:2], device=preds.device)
    for scale, weight in enumerate(MS_WEIGHTS):
        similarity, structure = _ssim_terms(restored, truth)
        last = scale == len(MS_WEIGHTS) - 1
        product = product * (similarity if last else structure) ** weight
        odd = (restored.shape[-2] % 2, restored.shape[-1] % 2)  # such a side gets a border of black, as in pyiqa
        restored, truth = (torch.nn.functional.avg_pool2d(plane, 2, padding=odd) for plane in (restored, truth))
    return product.mean(dim=1)


def _planes(preds: Tensor, target: Tensor, channels: str, crop: int) -> tuple[Tensor, Tensor]:
    check_pair(preds, target)
    restored, truth = to_pixels(preds), to_pixels(target)
    if channels == "y":
        restored, truth = y_channel(restored), y_channel(truth)
    height, width = preds.shape[-2:]
    if 2 * crop >= min(height, width):
        raise UserError(f"A border of {crop} pixels leaves nothing of a {height} x {width} image; crop less.")
    inside = (..., slice(crop, height - crop), slice(crop, width - crop))
    return restored[inside], truth[inside]


def _ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean similarity and mean contrast-structure term, each (B, C), of planes (B, C, H, W) in 0..255."""
    if min(x.shape[-2:]) < WINDOW:
        raise UserError(f"SSIM needs sides of at least {WINDOW} pixels, got {tuple(x.shape[-2:])}; leave it out.")
    x, y = x - 128, y - 128  # variances are differences of squares: small numbers keep them exact in float32
    mean_x, mean_y = gaussian_blur(x, WINDOW, SIGMA), gaussian_blur(y, WINDOW, SIGMA)
    var_x, var_y = (
        gaussian_blur(x * x, WINDOW, SIGMA) - mean_x.square(),
        gaussian_blur(y * y, WINDOW, SIGMA) - mean_y.square(),
    )
    covariance = gaussian_blur(x * y, WINDOW, SIGMA) - mean_x * mean_y
    structure = ((2 * covariance + C2) / (var_x + var_y + C2)).clamp(min=0)
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    return (luminance * structure).mean(dim=(2, 3)), structure.mean(dim=(2, 3))


class ChannelMetric(FullReferenceMetric):
    """A measure of Y or of RGB, averaged over images.

    Args:
        channels: "y" (BT.601, what papers print) or "rgb".
        crop: border in pixels that is left out on each side.

    Raises:
        UserError: other channels.
    """

    def __init__(self, channels: str = "y", crop: int = 0) -> None:
        super().__init__()
        if channels not in ("y", "rgb"):
            raise UserError(f"A metric's channels are 'y' or 'rgb', not {channels!r}.")
        self.channels, self.crop = channels, crop


class PSNR(ChannelMetric):
    """`psnr`, averaged over images."""

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Decibels (B,), higher is better."""
        return psnr(preds, target, self.channels, self.crop)


class SSIM(ChannelMetric):
    """`ssim`, averaged over images."""

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Similarity (B,) in [0, 1], higher is better."""
        return ssim(preds, target, self.channels, self.crop)


class MSSSIM(ChannelMetric):
    """`ms_ssim`, averaged over images."""

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Similarity (B,) in [0, 1], higher is better."""
        return ms_ssim(preds, target, self.channels, self.crop)

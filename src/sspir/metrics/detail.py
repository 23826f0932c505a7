"""Plain measures of detail and colour against the truth, which explain other metrics.

The two ratios are best at 1. Noise raises both: a ratio near 1 is no proof of detail without the noise control.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.metrics.base import FullReferenceMetric, check_pair, to_pixels
from sspir.metrics.filters import gaussian_blur
from sspir.metrics.psnr_ssim import SIGMA, WINDOW, y_channel

ROUNDING = 1 / 12  # variance of rounding to integers: keeps ratios finite where the truth is flat
BLOCK = 32  # pixels over which colours are averaged
XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE_D65 = (0.95047, 1.0, 1.08883)


class HighFrequencyRatio(FullReferenceMetric):
    """Energy of Y above a Gaussian low pass of 1.5 pixels, as a multiple of the truth's."""

    higher_is_better = None
    ideal = 1.0

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Ratio (B,), below 1 for blur, above 1 for noise or oversharpening."""
        check_pair(preds, target, WINDOW)
        restored, truth = (_high_frequency_energy(image) for image in (preds, target))
        return (restored + ROUNDING) / (truth + ROUNDING)


class GradientRatio(FullReferenceMetric):
    """Mean gradient magnitude of Y (forward differences), as a multiple of the truth's."""

    higher_is_better = None
    ideal = 1.0

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Ratio (B,), below 1 for blur, above 1 for noise or oversharpening."""
        check_pair(preds, target, 2)
        restored, truth = (_mean_gradient(image) for image in (preds, target))
        return (restored + ROUNDING**0.5) / (truth + ROUNDING**0.5)


class ColorShift(FullReferenceMetric):
    """Mean CIE 1976 difference between the colours of both images, each averaged over 32 x 32 pixels.

    Detail averages out, a cast stays; about 2.3 is just noticeable (Sharma 2003).
    """

    higher_is_better = False

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Distance in CIELAB (B,), 0 for identical images, lower is better."""
        check_pair(preds, target)
        height, width = ((side + BLOCK - 1) // BLOCK for side in preds.shape[-2:])
        restored, truth = (
            F.adaptive_avg_pool2d(to_lab(to_pixels(image) / 255), (height, width)) for image in (preds, target)
        )
        return (restored - truth).norm(dim=1).mean(dim=(1, 2))


def to_lab(images: Tensor) -> Tensor:
    """CIELAB (L* in [0, 100]) under D65 of sRGB images (B, 3, H, W) in [0, 1]."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("xc,bchw->bxhw", images.new_tensor(XYZ_OF_RGB), linear)
    ratio = xyz / images.new_tensor(WHITE_D65).view(3, 1, 1)
    x, y, z = torch.where(ratio > 0.008856, ratio ** (1 / 3), 7.787 * ratio + 16 / 116).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _high_frequency_energy(images: Tensor) -> Tensor:
    y = y_channel(to_pixels(images))
    edge = WINDOW // 2
    return (y[..., edge:-edge, edge:-edge] - gaussian_blur(y, WINDOW, SIGMA)).square().mean(dim=(1, 2, 3))


def _mean_gradient(images: Tensor) -> Tensor:
    y = y_channel(to_pixels(images))
    down, right = y[..., 1:, :-1] - y[..., :-1, :-1], y[..., :-1, 1:] - y[..., :-1, :-1]
    return torch.hypot(down, right).mean(dim=(1, 2, 3))

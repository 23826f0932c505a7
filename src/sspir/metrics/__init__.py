"""Metrics of pictures."""

from sspir.metrics.cvvdp import ColorVideoVDP
from sspir.metrics.detail import ColorShift, GradientRatio, HighFrequencyRatio
from sspir.metrics.distance import PerceptualMetric
from sspir.metrics.grid import Grid, Seams
from sspir.metrics.learned import FID, LearnedNoReference
from sspir.metrics.niqe import NIQE
from sspir.metrics.psnr_ssim import MSSSIM, PSNR, SSIM
from sspir.metrics.structural import GMSD, VIF, HaarPSI

__all__ = [
    "FID", "GMSD", "MSSSIM", "NIQE", "PSNR", "SSIM", "VIF", "ColorShift", "ColorVideoVDP", "GradientRatio", "Grid",
    "HaarPSI", "HighFrequencyRatio", "LearnedNoReference", "PerceptualMetric", "Seams",
]  # fmt: skip

"""Measure the methods' pictures of one image, with the two rows every table needs: bicubic and plain noise."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import FolderMetric, ImageMetric, to_pixels
from sspir.metrics.psnr_ssim import psnr
from sspir.models.latent import upscale

BICUBIC = "bicubic"
NOISE = "noise@"  # + the method whose PSNR the noise matches
STEPS = 20  # bisections of sigma in [0, 1]: the PSNR is met to a few thousandths of a dB


@dataclass
class Row:
    """The metrics' values of one method's picture of one image.

    Attributes:
        image: the name that pairs pictures.
        method: whose picture.
        values: metric name -> value; a metric that could not be measured here is absent.
        problems: metric name -> why it is absent.
    """

    image: str
    method: str
    values: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def measure_image(
    metrics: Mapping[str, ImageMetric],
    image: str,
    pictures: Mapping[str, Tensor],
    hq: Tensor | None = None,
    lq: Tensor | None = None,
    noise_base: str | None = None,
    crop_border: int = 0,
) -> list[Row]:
    """Measure every method's picture of one image, and the rows to compare it with: bicubic and plain noise.

    Args:
        metrics: name -> metric; those that need a truth are left out where there is none.
        image: name of the image; it also seeds the noise.
        pictures: method -> restored (3, H, W) in [0, 1], RGB.
        hq: truth (3, H, W), or None.
        lq: what the methods were given (3, h, w); adds the row `bicubic`, enlarged to the truth's size.
        noise_base: adds `noise@METHOD` rows: the picture of this method ("bicubic", a Processor's output) with
            white noise up to METHOD's PSNR-Y. A base below METHOD's PSNR is left without noise.
        crop_border: pixels at each side of every picture that are not measured, after bicubic enlarging.

    Raises:
        UserError: noise_base names no picture, or the border leaves nothing.
    """
    pictures = dict(pictures)
    if lq is not None:
        height, width = (hq if hq is not None else next(iter(pictures.values()), lq)).shape[-2:]
        pictures[BICUBIC] = upscale(lq[None], (height, width))[0]
    pictures = {method: _inside(picture, crop_border) for method, picture in pictures.items()}
    hq = None if hq is None else _inside(hq, crop_border)
    rows = [_measure(metrics, image, method, picture, hq) for method, picture in pictures.items()]
    if noise_base is None or hq is None:
        return rows
    if noise_base not in pictures:
        raise UserError(f"No picture of {noise_base!r} to add noise to for {image}; give its folder, or --lq.")
    base = to_pixels(pictures[noise_base]) / 255  # so that a picture and its file get the same noise
    for method, picture in pictures.items():
        if method != noise_base and picture.shape == hq.shape == base.shape:
            target = psnr(picture[None], hq[None]).item()
            noisy = add_noise(base, hq, target, seed=zlib.crc32(image.encode(errors="surrogateescape")))
            rows.append(_measure(metrics, image, NOISE + method, noisy, hq))
    return rows


def _inside(picture: Tensor, border: int) -> Tensor:
    """A picture (3, H, W) without `border` pixels at each side."""
    height, width = picture.shape[-2:]
    if min(height, width) <= 2 * border:
        raise UserError(f"Cropping {border} pixels at each side leaves nothing of {width} x {height}; crop fewer.")
    return picture[..., border : height - border, border : width - border]


def add_noise(base: Tensor, hq: Tensor, target: float, seed: int) -> Tensor:
    """Add white Gaussian noise to base (3, H, W) until its PSNR-Y against hq (3, H, W) falls to target dB.

    A base that is below the target already is returned as it is: noise cannot do better.
    """
    noise = torch.randn(base.shape, generator=torch.Generator().manual_seed(seed)).to(base)
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = psnr((base + middle * noise).clamp(0, 1)[None], hq[None]).item() > target
        low, high = (middle, high) if above else (low, middle)
    return (base + low * noise).clamp(0, 1)


def _measure(metrics: Mapping[str, ImageMetric], image: str, method: str, picture: Tensor, hq: Tensor | None) -> Row:
    row = Row(image, method)
    for name, metric in metrics.items():
        if isinstance(metric, FolderMetric) or (metric.needs_reference and hq is None):
            continue
        truth = [hq[None]] if metric.needs_reference and hq is not None else []
        try:
            value = metric.score(picture[None], *truth).item()
        except UserError as error:
            row.problems[name] = str(error)
            continue
        if math.isfinite(value):
            row.values[name] = value
        else:
            row.problems[name] = f"{name} is undefined for this picture, which may be flat or equal to its truth."
    return row

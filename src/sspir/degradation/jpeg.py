"""JPEG compression at a quality drawn per image: the real codec, and one that runs on any device with gradients.

Both are baseline JPEG of the IJG library (libjpeg, libjpeg-turbo) with chroma at half size (4:2:0) and its smooth
chroma upsampling. The batched one repeats the library's every rounding except those inside its integer cosine
transform.
"""

import math
from collections.abc import Sequence
from functools import cache, partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sspir.degradation.opencv import Array, opencv_applies, through_opencv
from sspir.degradation.operation import Operation, Size, Step, checked_range, integer
from sspir.device import constant, kept_on_device, sent
from sspir.errors import UserError

# ITU-T T.81, tables K.1 and K.2
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
# JFIF 1.02: RGB to YCbCr, and back
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
FROM_YCC = ((0.0, 1.402), (-0.344136286, -0.714136286), (1.772, 0.0))


class JPEG(Operation):
    """Compress and decompress; by the real codec on the CPU, by the batched one elsewhere or where gradients flow.

    Args:
        quality: smallest and largest quality of libjpeg, 1 to 100; every whole number between is as likely.
    """

    def __init__(self, quality: Sequence[int]) -> None:
        low, high = checked_range("JPEG.quality", quality, 1, 100)
        self.quality = (int(low), int(high))

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw the quality."""
        return {"quality": integer(generator, *self.quality)}

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Compress and decompress: (B, 3, H, W) in [0, 1] -> the same, of 256 levels."""
        codec = jpeg_codec if opencv_applies(images) else jpeg
        return codec(images, [step["quality"] for step in steps])


def jpeg_codec(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """The real codec (libjpeg-turbo in OpenCV) on the CPU; (B, 3, H, W) in [0, 1] -> the same, of 256 levels."""
    codecs = [partial(_codec_array, quality=int(quality)) for quality in qualities]
    return through_opencv(images.detach().float().cpu(), codecs).to(images)


def _codec_array(image: Array, quality: int) -> Array:
    pixels = cv2.cvtColor(cv2.convertScaleAbs(np.maximum(image, 0), alpha=255), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise UserError(f"OpenCV cannot write an image of {image.shape[1]}x{image.shape[0]} pixels as JPEG.")
    decoded = cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
    return np.multiply(decoded, np.float32(1 / 255), dtype=np.float32)


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Compress and decompress on the images' device; rounding passes gradients on as if it were not there.

    Args:
        images: (B, 3, H, W) in [0, 1], RGB.
        qualities: B numbers from 1 to 100.

    Returns:
        (B, 3, H, W) in [0, 1], of 256 levels.
    """
    height, width = images.shape[-2:]
    tables = torch.stack([quantisation_tables(quality) for quality in qualities], dim=1)
    tables = sent(tables, images.device).to(images.dtype)
    luma, chroma = _to_ycc(_floor(images.clamp(0, 1) * 255 + 0.5))
    luma = _compress(_pad(luma, 8, 8), tables[0, :, None])[..., :height, :width]
    chroma = _pad(_halve(_pad(chroma, 2, 16)), 8, 8)
    chroma = _compress(chroma, tables[1, :, None])[..., : -(-height // 2), : -(-width // 2)]
    return _to_rgb(luma, _double(chroma)[..., :height, :width]) / 255


@cache
def quantisation_tables(quality: int) -> Tensor:
    """Luma and chroma steps of a quality, (2, 8, 8), as libjpeg scales them for baseline files."""
    if not 1 <= quality <= 100:
        raise UserError(f"The JPEG quality is {quality}: give 1 to 100.")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor([LUMA_TABLE, CHROMA_TABLE]) * percent + 50) // 100).clamp(1, 255).float()


def _floor(values: Tensor) -> Tensor:
    """Round down; gradients pass as through the identity."""
    return values + (values.floor() - values).detach() if values.requires_grad else values.floor()


def _to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of R, G, B -> luma (B, 1, H, W) and the two chromas (B, 2, H, W), whole numbers."""
    ycc = torch.einsum("yc,bchw->byhw", constant(TO_YCC, rgb), rgb)
    return _floor(ycc[:, :1] + 0.5), _floor(ycc[:, 1:] + (128.5 - 2**-16))  # libjpeg rounds chroma a hair down


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Luma and chromas -> levels of R, G, B."""
    shift = torch.einsum("cy,byhw->bchw", constant(FROM_YCC, luma), chroma - 128)
    return (luma + _floor(shift + 0.5)).clamp(0, 255)


def _pad(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the right and bottom edges up to multiples of these."""
    height, width = planes.shape[-2:]
    return F.pad(planes, (0, -width % columns, 0, -height % rows), mode="replicate")


def _halve(chroma: Tensor) -> Tensor:
    """Average 2x2 pixels; halves are rounded down and up in alternate columns."""
    bias = constant((0.25, 0.5), chroma).repeat(chroma.shape[-1] // 4)
    return _floor(F.avg_pool2d(chroma, 2) + bias)


def _double(chroma: Tensor) -> Tensor:
    """Enlarge twice by libjpeg's triangle filter: 3/4 of the near sample and 1/4 of the far one, each way."""
    height, width = chroma.shape[-2:]
    padded = F.pad(chroma, (1, 1, 1, 1), mode="replicate")
    near = 3 * padded[..., 1:-1, :]
    rows = torch.stack([near + padded[..., :-2, :], near + padded[..., 2:, :]], dim=-2)
    rows = rows.reshape(*chroma.shape[:2], 2 * height, width + 2)
    near = 3 * rows[..., 1:-1]
    left, right = _floor((near + rows[..., :-2] + 8) / 16), _floor((near + rows[..., 2:] + 7) / 16)
    return torch.stack([left, right], dim=-1).reshape(*chroma.shape[:2], 2 * height, 2 * width)


def _compress(planes: Tensor, tables: Tensor) -> Tensor:
    """Quantise the cosine coefficients: (B, C, H, W) levels and (B, 1, 8, 8) steps -> (B, C, H, W) levels."""
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4) - 128
    basis = _cosines(planes.device).to(planes.dtype)
    steps = tables[:, :, None, None]
    coefficients = basis @ blocks @ basis.T
    # libjpeg keeps coefficients in eighths and rounds halves away from zero
    eighths = _floor(coefficients * 8 + 0.5)
    counts = eighths.sign() * _floor(eighths.abs() / (8 * steps) + 0.5)
    levels = _floor(basis.T @ (counts * steps) @ basis + 128.5).clamp(0, 255)
    return levels.transpose(3, 4).reshape(planes.shape)


@kept_on_device
@cache
def _cosines() -> Tensor:
    """The orthonormal 8-point cosine transform, (8 frequencies, 8 places)."""
    frequency, place = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    basis = torch.cos(math.pi / 8 * frequency * (place + 0.5)) / 2
    basis[0] /= math.sqrt(2)
    return basis

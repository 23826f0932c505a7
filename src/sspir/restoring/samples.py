"""Several restorations of one photo: their mean, and where they disagree, which is where the model invents."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from torch import Tensor

from sspir.color import luma
from sspir.files import write_bytes
from sspir.images.io import write_image
from sspir.images.picture import Picture
from sspir.restoring.jobs import side_files

WHITE_AT = 0.1
"""Spread, in units of white, that the trust map shows at the bright end of its scale."""


@dataclass(frozen=True)
class Samples:
    """Restorations of one photo under different seeds.

    Attributes:
        images: (N, 3, H, W) in [0, 1], N >= 2.
        mean: (3, H, W) in [0, 1], closer to the truth on average than any of them, and softer.
        spread: (H, W) standard deviation of their luma, in units of white: the trust map.
    """

    images: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """Mean and spread of images (N, 3, H, W) in [0, 1]."""
        return cls(images, images.mean(dim=0), luma(images)[:, 0].std(dim=0, correction=1))


def write_samples(target: Path, picture: Picture, samples: Samples) -> None:
    """Write everything but the first sample beside it.

    `photo.png` gets `photo.sample2.png` ..., `photo.mean.png`, `photo.trust.png` (black where the samples agree,
    bright where their spread is a tenth of white or more) and `photo.spread.npy` ((H, W) float32, see `Samples`).

    Args:
        target: of the first sample.
        picture: the photo, for its depth and metadata.
        samples: of it.
    """
    places = side_files(target, False, len(samples.images))
    for number, image in enumerate(samples.images[1:], start=2):
        write_image(places[f"sample{number}"], picture.replaced(image))
    write_image(places["mean"], picture.replaced(samples.mean))
    write_image(places["trust"], Picture(trust_map(samples.spread)))
    buffer = BytesIO()
    np.save(buffer, samples.spread.float().cpu().numpy())
    write_bytes(places["spread"], buffer.getvalue())


def trust_map(spread: Tensor) -> np.ndarray:
    """(H, W) spread as a picture (H, W, 3) uint8, on one scale for all photos so that they can be compared."""
    levels = (spread.float() / WHITE_AT).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])

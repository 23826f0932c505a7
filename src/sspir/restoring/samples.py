"""Several restorations of one photo: their mean, and where they differ, which is where the model invents."""

from io import BytesIO
from pathlib import Path

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


def write_samples(target: Path, picture: Picture, samples: Tensor) -> None:
    """Write all samples of a photo but the first, and what they have in common, beside the first.

    `photo.png` gets `photo.sample2.png` ...; `photo.mean.png`, which is closer to the truth on average than any sample,
    and softer; `photo.spread.npy`, (H, W) float32, the standard deviation of the samples' luma in units of white; and
    `photo.trust.png`, the spread as a picture: black where the samples agree, bright from a tenth of white on.

    Args:
        target: path of the first sample.
        picture: the photo, for its depth and metadata.
        samples: (N, 3, H, W) in [0, 1], N >= 2: restorations of the photo under different seeds.
    """
    spread = luma(samples)[:, 0].std(dim=0, correction=1)
    places = side_files(target, False, len(samples))
    for number, image in enumerate(samples[1:], start=2):
        write_image(places[f"sample{number}"], picture.replaced(image))
    write_image(places["mean"], picture.replaced(samples.mean(dim=0)))
    write_image(places["trust"], Picture(trust_map(spread)))
    buffer = BytesIO()
    np.save(buffer, spread.float().cpu().numpy())
    write_bytes(places["spread"], buffer.getvalue())


def trust_map(spread: Tensor) -> np.ndarray:
    """(H, W) spread as a picture (H, W, 3) uint8, on one scale for all photos so that they can be compared."""
    levels = (spread.float() / WHITE_AT).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])

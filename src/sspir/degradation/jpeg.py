"""JPEG compression at a quality drawn per image."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Generator, Tensor

from sspir.degradation.operation import Operation, Size, Step, checked_range, integer
from sspir.errors import UserError


class JPEG(Operation):
    """Compress and decompress.

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
        return jpeg_codec(images, [step["quality"] for step in steps])


def jpeg_codec(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """The real codec (libjpeg-turbo in OpenCV), chroma at half size; (B, 3, H, W) in [0, 1] -> the same."""
    pixels = (images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    results = []
    for image, quality in zip(pixels, qualities, strict=True):
        done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
        if not done:
            raise UserError(f"OpenCV cannot write an image of {image.shape[1]}x{image.shape[0]} pixels as JPEG.")
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        results.append(torch.from_numpy(np.ascontiguousarray(decoded[..., ::-1])))
    return (torch.stack(results).to(images.device).permute(0, 3, 1, 2).to(images) / 255).contiguous()

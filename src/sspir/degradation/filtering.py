"""Filtering every image of a batch with a kernel of its own."""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.degradation.kernels import Kernel
from sspir.degradation.opencv import Array, opencv_applies, through_opencv
from sspir.device import sent

NEGLIGIBLE = 1e-4  # share of a kernel that may be left out: 1/40 of a grey level at the very most
LARGEST_DIRECT = 15  # pixels; wider kernels are faster through the Fourier transform
LARGEST_OF_OPENCV = 129  # weights; with more, OpenCV takes its own, slower, Fourier transform


def filter_images(images: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Correlate image i with kernel i, the border reflected without repeating its edge.

    Args:
        images: (B, 3, H, W).
        kernels: B kernels (k, k), each of its own odd size k.

    Returns:
        (B, 3, H, W), not clamped.
    """
    kernels = [trimmed(kernel) for kernel in kernels]
    if opencv_applies(images):
        return through_opencv(images, [partial(_filter_array, kernel=kernel) for kernel in kernels])
    largest = max(len(kernel) for kernel in kernels)
    weights = np.stack([np.pad(kernel, (largest - len(kernel)) // 2) for kernel in kernels])
    batch, channels, height, width = images.shape
    padded = reflect(images, largest // 2).reshape(1, -1, height + largest - 1, width + largest - 1)
    weight = sent(torch.from_numpy(weights).to(images.dtype), images.device).repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weight, groups=batch * channels).reshape(batch, channels, height, width)


def reflect(images: Tensor, margin: int) -> Tensor:
    """Pad by reflection, also where the margin is wider than the image: (..., H, W) -> (..., H+2m, W+2m)."""
    height, width = images.shape[-2:]
    if margin < min(height, width):
        return F.pad(images, [margin] * 4, mode="reflect")
    rows, columns = (_reflected(length, margin, images.device) for length in (height, width))
    return images[..., rows, :][..., columns]


def trimmed(kernel: Kernel) -> Kernel:
    """Cut off a kernel's outer rings of negligible weights; the sum stays 1."""
    weights = np.abs(kernel)
    whole, ring = weights.sum(), 0
    while 2 * ring + 1 < len(kernel):
        inner = weights[ring + 1 : -ring - 1, ring + 1 : -ring - 1]
        if whole - inner.sum() > NEGLIGIBLE:
            break
        ring += 1
    small = kernel[ring : len(kernel) - ring, ring : len(kernel) - ring]
    return small / small.sum()


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    index = torch.arange(-margin, length + margin, device=device)
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index % period
    return torch.minimum(index, period - index)


def _filter_array(image: Array, kernel: Kernel) -> Array:
    """Filter one image by the cheapest of three ways that give the same sums."""
    row, column = kernel.sum(axis=0), kernel.sum(axis=1)
    if np.abs(np.outer(column, row) - kernel).sum() < NEGLIGIBLE:
        return cv2.sepFilter2D(image, -1, row, column, borderType=cv2.BORDER_REFLECT_101)
    if len(kernel) <= LARGEST_DIRECT:
        return _filter_directly(image, kernel)
    return _filter_by_fourier(image, kernel)


def _filter_directly(image: Array, kernel: Kernel) -> Array:
    """Correlation by its sum; a large kernel goes in bands of rows."""
    size, margin = len(kernel), len(kernel) // 2
    if size * size <= LARGEST_OF_OPENCV:
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    band = -(-size // -(-size * size // LARGEST_OF_OPENCV))
    filtered = np.zeros_like(image)
    for row in range(0, size, band):
        rows = kernel[row : row + band]
        below = padded[row : row + height + len(rows) - 1]
        # OpenCV fills the border with what it likes: only the inside is taken
        part = cv2.filter2D(below, -1, rows, anchor=(margin, 0), borderType=cv2.BORDER_CONSTANT)
        filtered = cv2.add(filtered, part[:height, margin : margin + width], dst=filtered)
    return filtered


def _filter_by_fourier(image: Array, kernel: Kernel) -> Array:
    """Correlation as a product of spectra, on a size that transforms fast."""
    height, width = image.shape[:2]
    size, margin = len(kernel), len(kernel) // 2
    rows, columns = (cv2.getOptimalDFTSize(length + size - 1) for length in (height, width))
    bottom, right = rows - height - margin, columns - width - margin
    padded = cv2.copyMakeBorder(image, margin, bottom, margin, right, cv2.BORDER_REFLECT_101)
    planes = torch.from_numpy(padded).permute(2, 0, 1).contiguous()
    spectrum = torch.fft.rfft2(planes) * torch.fft.rfft2(torch.from_numpy(kernel), (rows, columns)).conj()
    filtered = torch.fft.irfft2(spectrum, (rows, columns))[:, :height, :width]
    return filtered.permute(1, 2, 0).contiguous().numpy()

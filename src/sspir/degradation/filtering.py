"""Filtering every image of a batch with a kernel of its own."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def filter_images(images: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Correlate image i with kernel i, the border reflected without repeating its edge.

    Args:
        images: (B, C, H, W).
        kernels: B kernels (k, k) on the CPU, each of its own odd size k.

    Returns:
        (B, C, H, W), not clamped.
    """
    if images.device.type == "cpu" and not images.requires_grad:
        return torch.cat([_filter_on_cpu(image, kernel) for image, kernel in zip(images, kernels, strict=True)])
    largest = max(len(kernel) for kernel in kernels)
    weight = torch.stack([F.pad(kernel, [(largest - len(kernel)) // 2] * 4) for kernel in kernels])
    batch, channels, height, width = images.shape
    padded = reflect(images, largest // 2).reshape(1, -1, height + largest - 1, width + largest - 1)
    weight = weight.to(images).repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weight, groups=batch * channels).reshape(batch, channels, height, width)


def reflect(images: Tensor, margin: int) -> Tensor:
    """Pad by reflection, also where the margin is wider than the image: (..., H, W) -> (..., H+2m, W+2m)."""
    height, width = images.shape[-2:]
    if margin < min(height, width):
        return F.pad(images, [margin] * 4, mode="reflect")
    rows, columns = (_reflected(length, margin, images.device) for length in (height, width))
    return images[..., rows, :][..., columns]


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    index = torch.arange(-margin, length + margin, device=device)
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index % period
    return torch.minimum(index, period - index)


def _filter_on_cpu(image: Tensor, kernel: Tensor) -> Tensor:
    """(C, H, W) -> (1, C, H, W): the same sums through OpenCV, several times faster than a grouped convolution."""
    planes = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    filtered = cv2.filter2D(planes, -1, kernel.numpy(), borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(np.atleast_3d(filtered)).permute(2, 0, 1)[None].contiguous()

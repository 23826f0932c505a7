"""Blur kernels of Real-ESRGAN: Gaussian, generalised Gaussian, plateau and sinc.

All kernels are (k, k) float32 arrays, k odd, and sum to 1.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Kernel = NDArray[Any]  # (k, k)


def gaussian_kernel(kernel_size: int, sigma: tuple[float, float], rotation: float, beta: float = 1.0) -> Kernel:
    """Gaussian, or generalised Gaussian where beta is not 1 (Real-ESRGAN, arXiv 2107.10833, equation 2).

    Args:
        kernel_size: k, odd, pixels.
        sigma: standard deviations along the kernel's own two axes, pixels.
        rotation: of the axes, radians.
        beta: shape; 1 is the Gaussian, smaller has a sharper peak, larger a flatter one.
    """
    return _normalised(np.exp(-0.5 * _squared_distance(kernel_size, sigma, rotation) ** beta))


def plateau_kernel(kernel_size: int, sigma: tuple[float, float], rotation: float, beta: float) -> Kernel:
    """Plateau-shaped kernel (Real-ESRGAN, arXiv 2107.10833, equation 3); arguments as of `gaussian_kernel`."""
    return _normalised(1 / (1 + _squared_distance(kernel_size, sigma, rotation) ** beta))


def sinc_kernel(kernel_size: int, cutoff: float) -> Kernel:
    """Circular low-pass filter, which rings like a sharpened image (Real-ESRGAN, arXiv 2107.10833, equation 6).

    Args:
        kernel_size: k, odd, pixels.
        cutoff: frequency above which nothing passes, radians per pixel, in (0, pi].
    """
    y, x = _grid(kernel_size)
    radius = np.hypot(y, x)
    centre = kernel_size // 2
    radius[centre, centre] = 1.0
    wave = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    kernel = cutoff * wave / (2 * math.pi * radius)
    kernel[centre, centre] = cutoff**2 / (4 * math.pi)
    return _normalised(kernel)


def shifted_gaussian_kernel(kernel_size: int, sigma: float, shift: float) -> Kernel:
    """Isotropic Gaussian whose centre is moved by `shift` pixels right and down."""
    y, x = _grid(kernel_size)
    return _normalised(np.exp(-0.5 * ((y - shift) ** 2 + (x - shift) ** 2) / sigma**2))


@cache
def _grid(kernel_size: int) -> tuple[Kernel, Kernel]:
    axis = np.arange(kernel_size, dtype=np.float64) - kernel_size // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def _squared_distance(kernel_size: int, sigma: tuple[float, float], rotation: float) -> Kernel:
    """Squared Mahalanobis distance of every tap to the centre."""
    y, x = _grid(kernel_size)
    along = (x * math.cos(rotation) + y * math.sin(rotation)) / max(sigma[0], 1e-4)
    across = (y * math.cos(rotation) - x * math.sin(rotation)) / max(sigma[1], 1e-4)
    return along**2 + across**2


def _normalised(kernel: Kernel) -> Kernel:
    return (kernel / kernel.sum()).astype(np.float32)

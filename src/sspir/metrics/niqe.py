"""NIQE: how far an image's local statistics lie from those of undistorted photos (Mittal et al. 2013).

The numbers of the published model (`niqe_pristine.npz`) are those of the authors' software release, which the file
`niqe_pristine.LICENSE` permits to distribute. Grey is full-range Y, as in that release and in pyiqa's default, with
which papers measure; studio-range Y, as in BasicSR, moves results by 0.1 to 0.3. One pixel in a thousand ties at .5
before rounding: the side on which a library's arithmetic puts it moves single images by up to 0.03.

Plain noise lowers NIQE too: read it beside a full-reference metric and the noise control.
"""

from functools import cache
from importlib.resources import as_file, files

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import NoReferenceMetric, for_float64, to_pixels
from sspir.metrics.filters import gaussian_blur

BLOCK = 96  # pixels, at full size
GREY = (0.299, 0.587, 0.114)
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # section II-B: neighbours to the right, below, on both diagonals


class NIQE(NoReferenceMetric):
    """`niqe`, averaged over images."""

    higher_is_better = False

    def score(self, preds: Tensor) -> Tensor:
        """Distance (B,) from undistorted photos, lower is better."""
        return niqe(preds)


def niqe(images: Tensor) -> Tensor:
    """Naturalness (B,) >= 0 of images (B, 3, H, W) in [0, 1], RGB; lower is better (Mittal et al. 2013, eq. 10).

    Raises:
        UserError: fewer than two whole blocks of 96 x 96 pixels.
    """
    height, width = (side // BLOCK * BLOCK for side in images.shape[-2:])
    if height * width < 2 * BLOCK**2:
        size = tuple(images.shape[-2:])
        raise UserError(f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels, got an image of {size}; leave it out.")
    images = for_float64(images)
    weights = images.new_tensor(GREY, dtype=torch.float64).view(3, 1, 1)
    grey = (to_pixels(images).double() * weights).sum(dim=1, keepdim=True).round()
    full = grey[..., :height, :width]
    half = _halve(full / 255) * 255
    features = torch.cat([_block_features(full, BLOCK), _block_features(half, BLOCK // 2)], dim=-1)
    return torch.stack([_distance(blocks) for blocks in features]).float()


@cache
def _pristine() -> tuple[Tensor, Tensor]:
    with as_file(files("sspir.metrics") / "niqe_pristine.npz") as path, np.load(path) as model:
        return torch.from_numpy(model["mean"]), torch.from_numpy(model["covariance"])


def _distance(blocks: Tensor) -> Tensor:
    """Distance (eq. 10) of the features (N, 36) of one image's blocks; flat blocks have NaN features."""
    mean, covariance = (part.to(blocks) for part in _pristine())
    whole = blocks[~blocks.isnan().any(dim=1)]
    if len(whole) < 2:
        return blocks.new_tensor(float("nan"))
    inverse = torch.linalg.pinv((covariance + torch.cov(whole.T)) / 2, rtol=1e-15)
    difference = mean - blocks.nanmean(dim=0)
    return (difference @ inverse @ difference).sqrt()


def _block_features(grey: Tensor, block: int) -> Tensor:
    """Features (B, N, 18) of the N blocks of grey (B, 1, H, W): sections II-A and II-B."""
    mean = _blur(grey)
    deviation = (_blur(grey.square()) - mean.square()).abs().sqrt()
    normalized = (grey - mean) / (deviation + 1)  # eq. 1
    blocks = normalized.unfold(2, block, block).unfold(3, block, block).flatten(1, 3)  # (B, N, block, block)
    shape, left, right = _fit_aggd(blocks)
    features = [shape, (left + right) / 2]
    for shift in SHIFTS:
        shape, left, right = _fit_aggd(blocks * blocks.roll(shift, dims=(2, 3)))
        mean_of_fit = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()  # eq. 8
        features += [shape, mean_of_fit, left, right]
    return torch.stack(features, dim=-1)


def _fit_aggd(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale, each (B, N), of asymmetric generalized Gaussians (eq. 4) fitted by moments."""
    square = blocks.square()
    negative, positive = blocks < 0, blocks > 0
    left = ((square * negative).sum(dim=(2, 3)) / negative.sum(dim=(2, 3))).sqrt()
    right = ((square * positive).sum(dim=(2, 3)) / positive.sum(dim=(2, 3))).sqrt()
    ratio = left / right
    moment = blocks.abs().mean(dim=(2, 3)).square() / square.mean(dim=(2, 3))
    target = moment * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    shapes, moments = (table.to(blocks) for table in _shape_table())
    after = torch.searchsorted(moments, target.contiguous()).clamp(1, len(moments) - 1)
    nearer = (target - moments[after - 1]) <= (moments[after] - target)
    shape = shapes[after - nearer.long()]
    scale = (0.5 * (torch.lgamma(1 / shape) - torch.lgamma(3 / shape))).exp()
    return torch.where(target.isnan(), target, shape), left * scale, right * scale


@cache
def _shape_table() -> tuple[Tensor, Tensor]:
    """Shapes 0.2, 0.201, ... 10 and their ratio of moments, which grows with the shape."""
    shapes = torch.arange(200, 10001, dtype=torch.float64) / 1000
    logarithm = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    return shapes, logarithm.exp()


def _blur(plane: Tensor) -> Tensor:
    """7 x 7 Gaussian of 7/6 pixels over (B, 1, H, W), edges repeated, size kept."""
    return gaussian_blur(F.pad(plane, (3, 3, 3, 3), mode="replicate"), 7, 7 / 6)


def _halve(plane: Tensor) -> Tensor:
    """MATLAB's `imresize(plane, 0.5)` of (B, 1, H, W) with even sides: antialiased bicubic, edges mirrored."""
    mirrored = torch.cat([plane[..., :4].flip(-1), plane, plane[..., -4:].flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored[..., :4, :].flip(-2), mirrored, mirrored[..., -4:, :].flip(-2)], dim=-2)
    small = F.interpolate(mirrored, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    return small[..., 2:-2, 2:-2]

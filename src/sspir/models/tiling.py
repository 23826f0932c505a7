"""Large images in overlapping tiles: where the tiles lie, and how their results become one.

The arithmetic is that of the tiled branch of SSP-IR's pipeline (after StableSR's and Mixture of Diffusers').
Its weights peak half a row below the middle of a tile; ours are symmetric unless asked to be the authors'.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sspir.device import kept_on_device, sent
from sspir.errors import UserError

_VARIANCE = 0.01  # of the weights, in units of the tile's side


def tiles_of(height: int, width: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of tiles that cover an image, down the columns from left to right.

    A tile is `tile` on each side, or as long as the image where that is shorter. The last one of a row or column
    is moved back to end at the border.

    Args:
        height: of the image, in the unit of the others (pixels or latents).
        width: of the image.
        tile: side of a tile.
        overlap: of neighbouring tiles, less than `tile`.

    Raises:
        UserError: if the overlap is negative or not less than the side.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"Tiles of side {tile} cannot overlap by {overlap}; give 0 to {tile - 1}.")
    return [(y, x) for x in _starts(width, tile, overlap) for y in _starts(height, tile, overlap)]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def tile_weights(height: int, width: int, authors: bool = False) -> Tensor:
    """Gaussian weights (height, width) of a tile's values, float64, largest in the middle.

    Args:
        height: of the tile.
        width: of the tile.
        authors: peak half a row too low, as in the published pipeline.
    """
    row_middle = height / 2 if authors else (height - 1) / 2
    return torch.outer(_gaussian(height, row_middle), _gaussian(width, (width - 1) / 2))


@kept_on_device
def _weights(height: int, width: int, authors: bool) -> Tensor:
    return tile_weights(height, width, authors).float()


@lru_cache(maxsize=4)  # as large as a picture; nothing that is replayed reads it
@torch.inference_mode(False)
def _norm(
    device: torch.device,
    whole: tuple[int, int],
    corners: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    authors: bool,
) -> Tensor:
    """Sum (height, width) of the weights of all tiles."""
    norm, weights = torch.zeros(whole), tile_weights(*size, authors).float()
    for y, x in corners:
        norm[y : y + size[0], x : x + size[1]] += weights
    return sent(norm, device)


def _gaussian(length: int, middle: float) -> Tensor:
    distance = (torch.arange(length, dtype=torch.float64) - middle) / length
    return torch.exp(-(distance**2) / (2 * _VARIANCE)) / (2 * torch.pi * _VARIANCE) ** 0.5


def tiled(
    function: Callable[[list[Tensor]], Tensor],
    images: Sequence[Tensor],
    tile: int,
    overlap: int,
    batch: int = 1,
    authors: bool = False,
) -> Tensor:
    """Apply a function to overlapping tiles of aligned images and blend its results.

    Args:
        function: takes a list, for each image its tiles stacked to (tiles x B, C, h, w), and returns
            (tiles x B, C', h, w) of the size of the first; the B images of one tile stay neighbours.
        images: (B, C, H, W) each; the sides of the second and later ones are whole multiples of the first's
            (a latent and the low-quality image eight times its size), and are cut at the same places.
        tile: largest side of a tile, in values of the first image; one that covers the image is no tiling:
            the function's own result comes back.
        overlap: of neighbouring tiles, in values of the first image.
        batch: tiles per call of the function.
        authors: weights and sides of the published pipeline, whose tiles are squares no longer than the image's
            shorter side, and which cuts only images of more values than a square of the given side.

    Returns:
        (B, C, H, W), of the first image's height and width and the function's type.
    """
    height, width = images[0].shape[-2:]
    if max(height, width) <= tile or (authors and height * width <= tile**2):
        return function(list(images))
    if authors:
        tile = min(tile, height, width)
    corners = tiles_of(height, width, tile, overlap)
    size = min(tile, height), min(tile, width)
    device = images[0].device
    weights = _weights(device, *size, authors)
    total: Tensor | None = None
    for start in range(0, len(corners), batch):
        group = corners[start : start + batch]
        results = function([torch.cat([_cut(image, y, x, size, height) for y, x in group]) for image in images])
        if total is None:
            total = weights.new_zeros(len(images[0]), results.shape[1], height, width)
        for (y, x), result in zip(group, results.chunk(len(group)), strict=True):
            total[..., y : y + size[0], x : x + size[1]] += result * weights
    assert total is not None  # there is at least one tile
    return (total / _norm(device, (height, width), tuple(corners), size, authors)).to(results.dtype)


def _cut(image: Tensor, y: int, x: int, size: tuple[int, int], height: int) -> Tensor:
    """A tile of an image that is `image.shape[-2] / height` times as large as the one the tile is measured in."""
    factor = image.shape[-2] // height
    return image[..., y * factor : (y + size[0]) * factor, x * factor : (x + size[1]) * factor]

"""Encode images to latents and decode them, with the scaling and the range of any autoencoder."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional as F

from sspir.device import replayed
from sspir.models.offload import dtype_of, fetch
from sspir.models.tiling import tiled
from sspir.moved import old_names_of


def factor_of(vae: Any) -> int:
    """Image pixels per latent pixel, along one side."""
    return int(vae.config.get("factor") or 2 ** (len(vae.config.get("block_out_channels", ())) - 1))


def channels_of(vae: Any) -> int:
    """Channels of a latent."""
    return int(vae.config.get("latent_channels") or sum(vae.config.kept))


def encode_latents(
    vae: Any, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None, tile: int | None = None
) -> Tensor:
    """Encode images to scaled latents, in the autoencoder's own precision whatever a training's is.

    Args:
        vae: an autoencoder of diffusers, or one with its calls.
        images: (B, 3, H, W) in [0, 1]; H and W multiples of the factor.
        generator: draws from the posterior of a variational autoencoder, as the authors do.
        tile: side in latent pixels of tiles that are encoded one by one and blended; None: all at once.

    Returns:
        (B, C, H / factor, W / factor) in the dtype of `images`.
    """
    fetch(vae)
    pixels, factor = (2 * images - 1).to(dtype_of(vae)), factor_of(vae)
    places = pixels.new_empty(len(pixels), 0, pixels.shape[-2] // factor, pixels.shape[-1] // factor)
    with torch.autocast(pixels.device.type, enabled=False):
        latents = _tiled(lambda tiles: _moments(vae, tiles[1]), [places, pixels], tile)
    if latents.shape[1] == 2 * channels_of(vae):  # mean and logarithm of the variance
        latents = DiagonalGaussianDistribution(latents).sample(generator)
    shift = vae.config.get("shift_factor") or 0.0
    return ((latents - shift) * vae.config.get("scaling_factor", 1.0)).to(images.dtype)


def decode_latents(vae: Any, latents: Tensor, tile: int | None = None) -> Tensor:
    """Decode scaled latents (B, C, h, w) to images (B, 3, h * factor, w * factor), unclamped, about [0, 1].

    Args:
        vae: see `encode_latents`.
        latents: see above.
        tile: see `encode_latents`.
    """
    fetch(vae)
    shift = vae.config.get("shift_factor") or 0.0
    unscaled = (latents / vae.config.get("scaling_factor", 1.0) + shift).to(dtype_of(vae))
    factor = factor_of(vae)
    if tile is None or max(unscaled.shape[-2:]) <= tile:
        images = _decoded(vae, unscaled)
    else:  # tiles are measured in the values that come out
        places = unscaled.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        images = _tiled(lambda tiles: _decoded(vae, tiles[0][..., ::factor, ::factor]), [places], tile * factor)
    return (images / 2 + 0.5).to(latents.dtype)


@replayed
def _moments(vae: Any, pixels: Tensor) -> Tensor:
    """Mean and logarithm of the variance of the latents of images in [-1, 1]; of some autoencoders the mean alone."""
    encoded = vae.encode(pixels)
    parameters: Tensor = encoded.latent_dist.parameters if "latent_dist" in encoded else encoded.latents
    return parameters


@replayed
def _decoded(vae: Any, latents: Tensor) -> Tensor:
    images: Tensor = vae.decode(latents).sample
    return images


def _tiled(function: Callable[[list[Tensor]], Tensor], images: list[Tensor], tile: int | None) -> Tensor:
    side = max(images[0].shape[-2:]) if tile is None else tile
    return tiled(function, images, side, side // 4)


def upscale(lq: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of (B, 3, h, w) to size (H, W), clamped to [0, 1]: the network's view of a low-quality image.

    Training and restoring both come through here, so that what the model sees is what it was trained on.
    """
    if tuple(lq.shape[-2:]) == tuple(size):
        return lq
    return F.interpolate(lq, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


__getattr__ = old_names_of(__name__)

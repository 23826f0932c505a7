"""Images to latents and back, whatever the autoencoder: the one place that knows its scaling and its range."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sspir.offload import fetch


def factor_of(vae: Any) -> int:
    """Image pixels per latent pixel, along one side."""
    return int(vae.config.get("factor") or 2 ** (len(vae.config.get("block_out_channels", ())) - 1))


def channels_of(vae: Any) -> int:
    """Channels of a latent."""
    return int(vae.config.get("latent_channels") or sum(vae.config.kept))


def encode(vae: Any, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
    """Encode images to scaled latents.

    Args:
        vae: an autoencoder of diffusers, or one with its calls.
        images: (B, 3, H, W) in [0, 1]; H and W multiples of the factor.
        generator: draws from the posterior of a variational autoencoder, as the authors do.

    Returns:
        (B, C, H / factor, W / factor) in the dtype of `images`.
    """
    fetch(vae)
    encoded = vae.encode((2 * images - 1).to(vae.dtype))
    latents = encoded.latent_dist.sample(generator) if "latent_dist" in encoded else encoded.latents
    shift = vae.config.get("shift_factor") or 0.0
    return ((latents - shift) * vae.config.get("scaling_factor", 1.0)).to(images.dtype)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Decode scaled latents (B, C, h, w) to images (B, 3, h * factor, w * factor), unclamped, about [0, 1]."""
    shift = vae.config.get("shift_factor") or 0.0
    unscaled = latents / vae.config.get("scaling_factor", 1.0) + shift
    fetch(vae)
    images: Tensor = vae.decode(unscaled.to(vae.dtype)).sample
    return (images / 2 + 0.5).to(latents.dtype)


def upscale(lq: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of (B, 3, h, w) to size (H, W), clamped to [0, 1]: the network's view of a low-quality image.

    Training and restoring both come through here, so that what the model sees is what it was trained on.
    """
    if tuple(lq.shape[-2:]) == tuple(size):
        return lq
    return F.interpolate(lq, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)

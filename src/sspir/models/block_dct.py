"""A latent space that needs no training: the block cosine transform of an opponent-colour image."""

import math
from collections.abc import Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor
from torch.nn import functional as F

from sspir.errors import UserError

# Standard deviation of each kept coefficient over every eighth photo of BSDS500's train and test part.
_PHOTO_STD = (
    *(2.98, 0.455, 0.508, 0.280, 0.263, 0.309, 0.189, 0.204, 0.145, 0.157, 0.186, 0.119, 0.132, 0.0932, 0.098, 0.0646),
    *(1.18, 0.0825, 0.0872, 0.0281),
    *(0.473, 0.0452, 0.0487, 0.0177),
)


class BlockDCT(ModelMixin, ConfigMixin):
    """An orthonormal autoencoder for small models: 4x4 blocks, all luma and the lowest chroma coefficients.

    It stands where a VAE does, with the same calls. The default keeps 24 of 48 coefficients, which gives photos back
    at 52 dB, and scales each to unit variance over photos.

    Args:
        factor: side of a block, pixels per latent pixel.
        kept: coefficients of luma, red-blue and green-magenta, lowest frequencies first.
        std: standard deviation of each kept coefficient for images in [-1, 1].
        overlap: whether blocks reach half a block into their neighbours, so that no error of a latent ends at an edge:
            the lapped orthogonal transform (Malvar and Staelin 1989), as a rotation across the edges of blocks (Tran
            et al. 2003). The edges of the image are left alone.

    Raises:
        UserError: blocks that overlap have an odd side.
    """

    @register_to_config
    def __init__(
        self,
        factor: int = 4,
        kept: Sequence[int] = (16, 4, 4),
        std: Sequence[float] = _PHOTO_STD,
        overlap: bool = False,
    ) -> None:
        super().__init__()
        if overlap and factor % 2:
            raise UserError(f"vae.overlap: blocks of {factor} have no half; take an even vae.factor.")
        colours = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]), dim=1)
        order = sorted(range(factor**2), key=lambda n: (max(divmod(n, factor)), sum(divmod(n, factor)), n))
        blocks = cosine_basis(factor)[order]
        basis = torch.einsum("cr,nij->cnrij", colours, blocks)
        rows = torch.cat([basis[colour, :count] for colour, count in enumerate(kept)])
        scale = torch.tensor(std).view(-1, 1, 1, 1)
        # Parameters, so that `.dtype`, `.device` and saving work as in any other model.
        self.analysis = torch.nn.Parameter(rows / scale, requires_grad=False)
        self.synthesis = torch.nn.Parameter(rows * scale, requires_grad=False)
        if overlap:
            self.seam = torch.nn.Parameter(seam_rotation(factor), requires_grad=False)

    def encode(self, images: Tensor) -> AutoencoderTinyOutput:
        """(B, 3, H, W) in [-1, 1], H and W multiples of the factor -> latents (B, C, H / factor, W / factor).

        In full precision anywhere, as `decode` is.
        """
        with torch.autocast(images.device.type, enabled=False):
            images = across_seams(images, self.seam) if self.config.overlap else images
            return AutoencoderTinyOutput(latents=F.conv2d(images, self.analysis, stride=self.config.factor))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Latents (B, C, h, w) -> images (B, 3, h * factor, w * factor), about [-1, 1]; in full precision anywhere."""
        with torch.autocast(latents.device.type, enabled=False):
            images = F.conv_transpose2d(latents, self.synthesis, stride=self.config.factor)
            return DecoderOutput(sample=across_seams(images, self.seam.T) if self.config.overlap else images)


def across_seams(images: Tensor, rotation: Tensor) -> Tensor:
    """Images (B, C, H, W), the pixels (n) around each edge between blocks of n multiplied by a rotation (n, n)."""
    side, half = len(rotation), len(rotation) // 2
    for _ in range(2):  # rows, then columns
        inner = images[..., half:-half].reshape(*images.shape[:-1], images.shape[-1] // side - 1, side) @ rotation.T
        images = torch.cat([images[..., :half], inner.flatten(-2), images[..., -half:]], dim=-1).transpose(-1, -2)
    return images


def seam_rotation(size: int) -> Tensor:
    """What makes of the cosine transform of blocks (of an even side) the lapped one: orthogonal, (size, size)."""
    half = size // 2
    index = torch.arange(half)
    second = cosine_rows(half)
    fourth = torch.cos(math.pi * (2 * index[None] + 1) * (2 * index[:, None] + 1) / (4 * half)) * math.sqrt(2 / half)
    rotation = (second.T @ fourth).flip(0, 1)
    one, turned = torch.eye(half), torch.eye(half).flip(0)
    butterfly = torch.cat([torch.cat([one, turned], 1), torch.cat([turned, -one], 1)]) / math.sqrt(2)
    middle = torch.eye(size)
    middle[half:, half:] = rotation
    return butterfly @ middle @ butterfly


def cosine_basis(size: int) -> Tensor:
    """Orthonormal two-dimensional cosine transform: (size^2, size, size), row-major by vertical frequency."""
    rows = cosine_rows(size)
    return torch.einsum("ui,vj->uvij", rows, rows).reshape(size**2, size, size)


def cosine_rows(size: int) -> Tensor:
    """Orthonormal cosine transform (size, size), a frequency a row."""
    index = torch.arange(size)
    rows = torch.cos(math.pi * (2 * index[None] + 1) * index[:, None] / (2 * size)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows

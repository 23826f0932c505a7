"""A discriminator that looks through the eyes of a frozen network (Sauer et al. 2021; HYPIR, Lin et al. 2025)."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from sspir.numbers import COUNT
from sspir.objectives.discriminators import normed


class FeatureDiscriminator(nn.Module):
    """Small heads with spectral norms over maps of several depths of an encoder, which learns nothing.

    The pictures' gradient comes through the encoder. A checkpoint holds the heads alone.

    Args:
        encoder: whose `maps` of pictures (B, 3, H, W) in [0, 1] are a list of (B, C, h, w).
        width: channels inside each head.

    Raises:
        UserError: the width is no whole number from 1.
    """

    def __init__(self, encoder: Any, width: int = 64) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        with torch.no_grad():
            widths = [each.shape[1] for each in encoder.maps(torch.zeros(1, 3, 64, 64))]
        COUNT.require("objective.adversary.network.width", width)
        self.heads = nn.ModuleList(_head(channels, width) for channels in widths)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Logits of pictures (B, 3, H, W) in [0, 1], for each depth (B, 1, h, w)."""
        maps = self.encoder.maps(pictures)
        return [head(each.float()) for head, each in zip(self.heads, maps, strict=True)]

    def train(self, mode: bool = True) -> Self:
        """As of torch, for the heads; the encoder stays as it is measured."""
        super().train(mode)
        self.encoder.eval()
        return self

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """The heads'."""
        return self.heads.state_dict(*arguments, **options)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Of the heads."""
        return self.heads.load_state_dict(state_dict, strict, assign)


def _head(channels: int, width: int) -> nn.Sequential:
    """Maps of networks differ in size by orders of magnitude: each picture's is normalised first."""
    even = nn.GroupNorm(1, channels, affine=False)
    return nn.Sequential(even, normed(channels, width, 3), nn.LeakyReLU(0.2), normed(width, 1, 3))

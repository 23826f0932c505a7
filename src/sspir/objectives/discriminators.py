"""Networks that tell true photos from restored ones, place by place."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sspir.numbers import COUNT, Numbers


class PatchDiscriminator(nn.Module):
    """Convolutions with spectral norms whose every output sees a patch (Isola et al. 2017, Miyato et al. 2018).

    Args:
        width: channels of the first layer; they double with each halving, up to eight times.
        depth: halvings.

    Attributes:
        least: shortest side of pictures that it judges, pixels.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        COUNT.require("objective.adversary.network.width", width)
        self.least = 2 ** Numbers(int, 0, 16).require("objective.adversary.network.depth", depth)
        widths = [width * min(2**level, 8) for level in range(depth + 1)]
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.downs = nn.ModuleList(normed(a, b, 4, 2) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of pictures (B, 3, H, W) in [0, 1]."""
        hidden = F.leaky_relu(self.first(2 * pictures - 1), 0.2)
        for down in self.downs:
            hidden = F.leaky_relu(down(hidden), 0.2)
        logits: Tensor = self.last(hidden)
        return logits


class UNetDiscriminator(nn.Module):
    """A U-Net with spectral norms that judges every pixel, as Real-ESRGAN has it (Wang et al. 2021, section 3.3).

    Args:
        width: channels at full size; they double with each of three halvings.

    Raises:
        UserError: the width is no whole number from 1.
    """

    least = 8  # pixels of a side

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        COUNT.require("objective.adversary.network.width", width)
        widths = [width * 2**level for level in range(4)]
        pairs = list(pairwise(widths))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.downs = nn.ModuleList(normed(a, b, 4, 2) for a, b in pairs)
        self.ups = nn.ModuleList(normed(b, a, 3) for a, b in reversed(pairs))
        self.same = nn.ModuleList(normed(width, width, 3) for _ in range(2))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of pictures (B, 3, H, W) in [0, 1]."""
        hidden = F.leaky_relu(self.first(2 * pictures - 1), 0.2)
        skips = []
        for down in self.downs:
            skips.append(hidden)
            hidden = F.leaky_relu(down(hidden), 0.2)
        for up in self.ups:
            skip = skips.pop()
            hidden = F.interpolate(hidden, skip.shape[-2:], mode="bilinear")
            hidden = F.leaky_relu(up(hidden), 0.2) + skip
        for layer in self.same:
            hidden = F.leaky_relu(layer(hidden), 0.2)
        logits: Tensor = self.last(hidden)
        return logits


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution whose spectral norm is 1."""
    layer: nn.Module = spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False))
    return layer

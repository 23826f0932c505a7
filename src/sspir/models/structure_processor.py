"""The structure prior's Processor: a ControlNet's conditioning embedding whose features must explain the photo."""

from collections.abc import Sequence

from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.errors import UserError
from sspir.numbers import COUNT


class StructureProcessor(ModelMixin, ConfigMixin):
    """RGB heads over a ControlNet's conditioning embedding, whose predictions are supervised (SSP-IR).

    The embedding itself stays the ControlNet's own module, so that a trained ControlNet loads in stock diffusers.

    Args:
        channels: widths of the embedding, full size first; each further width halves the size and gets a head.
        front_features: width of the SRResNet in front, whose full-size image is supervised too. 0: no front.
        front_blocks: its residual blocks.
        front_factor: it works on maps this many times smaller than the image (a space-to-depth step), a power of two;
            the authors' 1.
        corrections: every image is a correction of a coarser guess and starts as that: the front's of 2 lq - 1, the
            heads' of the front's image (of 2 lq - 1 without one), made smaller. The authors' front corrects lq, their
            heads predict from nothing, and all start at random.

    Raises:
        UserError: the factor is no power of two.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 96, 256),
        front_features: int = 0,
        front_blocks: int = 8,
        front_factor: int = 1,
        corrections: bool = False,
    ) -> None:
        super().__init__()
        if COUNT.require("processor.front_factor", front_factor).bit_count() != 1:
            raise UserError(f"processor.front_factor={front_factor} is no power of two; give 1, 2, 4 or 8.")
        self.heads = nn.ModuleList(nn.Conv2d(width, 3, 3, padding=1) for width in channels[1:])
        if front_features:
            self.front = SRResNet(front_features, front_blocks, front_factor)
        if corrections:
            for layer in [*self.heads, *([self.front.conv_last] if front_features else [])]:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @property
    def channels(self) -> tuple[int, ...]:
        """Widths that the ControlNet's conditioning embedding must have."""
        return tuple(self.config.channels)

    @property
    def multiple(self) -> int:
        """The number of which an image's sides must be multiples; a power of two."""
        return max(2 ** len(self.heads), self.config.front_factor)

    @property
    def predicts_image(self) -> bool:
        """Whether the first image has full size, so that the diffusion can restore a residual to it."""
        return bool(self.config.front_features)

    def full_size(self, lq: Tensor) -> Tensor:
        """The front's image (B, 3, H, W) in [-1, 1] of lq (B, 3, H, W) in [0, 1]."""
        image: Tensor = self.front(lq, 2 * lq - 1 if self.config.corrections else lq)
        return image

    def forward(self, embedding: ControlNetConditioningEmbedding, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embed an image and predict the clean one at every scale.

        Args:
            embedding: the ControlNet's `controlnet_cond_embedding`.
            lq: (B, 3, H, W) in [0, 1]; H and W multiples of the embedding's factor.

        Returns:
            Features (B, C, h, w) for the ControlNet, and images in [-1, 1], largest first: full size with a front,
            then 1/2, 1/4, ... size.
        """
        images = []
        guess = 2 * lq - 1
        if self.predicts_image:
            lq = guess = self.full_size(lq)
            images.append(lq)
        hidden = F.silu(embedding.conv_in(lq))
        pairs = zip(embedding.blocks[::2], embedding.blocks[1::2], self.heads, strict=True)
        for same, down, head in pairs:
            hidden = F.silu(down(F.silu(same(hidden))))
            image = head(hidden)
            if self.config.corrections:
                image = image + F.interpolate(guess, image.shape[-2:], mode="bilinear")
            images.append(image)
        return embedding.conv_out(hidden), images


class NoProcessor(nn.Module):
    """The embedding alone, with no image to supervise.

    Args:
        channels: widths of the embedding, see `StructureProcessor`.
    """

    predicts_image = False
    multiple = 1  # the embedding needs what the autoencoder needs

    def __init__(self, channels: Sequence[int] = (16, 32, 96, 256)) -> None:
        super().__init__()
        self.channels = tuple(channels)

    def forward(self, embedding: nn.Module, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, C, h, w) of lq (B, 3, H, W) in [0, 1], and no images."""
        return embedding(lq), []


class SRResNet(nn.Module):
    """MSRResNet of the super-resolution literature, as the optional front of the Processor."""

    def __init__(self, features: int, blocks: int, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.conv_first = nn.Conv2d(3 * factor**2, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3 * factor**2, 3, padding=1)

    def forward(self, image: Tensor, base: Tensor) -> Tensor:
        """Return base (B, 3, H, W) plus the correction that image (B, 3, H, W) calls for."""
        hidden = F.leaky_relu(self.conv_first(F.pixel_unshuffle(image, self.factor)), 0.1)
        hidden = F.leaky_relu(self.conv_hr(self.body(hidden)), 0.1)
        return base + F.pixel_shuffle(self.conv_last(hidden), self.factor)


class ResidualBlock(nn.Module):
    """Two convolutions without normalisation beside the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        correction: Tensor = self.conv2(F.relu(self.conv1(hidden)))
        return hidden + correction

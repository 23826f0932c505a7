"""Image encoders without a pretrained network: none at all, and a user's module."""

from typing import Any, NoReturn

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import PreTrainedModel

from sspir.device import replayed
from sspir.errors import UserError


class NoImageEncoder(ModelMixin, ConfigMixin):
    """An image encoder switched off: the same zero token for every image.

    Args:
        dim: width of the token, D.
    """

    @register_to_config
    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.register_buffer("token", torch.zeros(1, 1, dim))

    def forward(self, images: Tensor) -> Tensor:
        """Zeros (B, 1, D) for images (B, 3, H, W)."""
        return self.token.expand(len(images), -1, -1)


class PlainEncoder(ModelMixin):
    """Wraps a user's module as a part of a pipeline, which asks its parts for their device and type.

    Args:
        module: images (B, 3, H, W) in [0, 1] -> tokens (B, L, D).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("place", torch.zeros(0), persistent=False)  # for modules that hold no tensors

    def forward(self, images: Tensor) -> Tensor:
        """The module's tokens (B, L, D) of images (B, 3, H, W)."""
        return self.module(images)

    def save_pretrained(self, *arguments: Any, **options: Any) -> NoReturn:
        """Refuse: nobody could build the module again from its weights.

        Raises:
            UserError: always; the sentence says what the module lacks.
        """
        kind = type(self.module)
        raise UserError(
            f"The image encoder {kind.__module__}.{kind.__qualname__} cannot be saved in a pipeline: its class keeps "
            "no configuration; derive it from diffusers.ModelMixin and ConfigMixin, and decorate its constructor with "
            "@register_to_config. Its run trains, restores and evaluates as it is."
        )


def encoder_of(module: nn.Module) -> nn.Module:
    """Return an image encoder that keeps its own configuration unchanged; wrap any other module in `PlainEncoder`."""
    is_diffusers = isinstance(module, ModelMixin) and hasattr(module, "_internal_dict")  # by register_to_config
    return module if is_diffusers or isinstance(module, PreTrainedModel | PlainEncoder) else PlainEncoder(module)


@replayed
def tokens_of(image_encoder: nn.Module, images: Tensor) -> Tensor:
    """Tokens (B, L, D) of images (B, 3, H, W) in [0, 1]."""
    tokens: Tensor = image_encoder(images)
    return tokens

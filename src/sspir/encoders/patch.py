"""The base classes of image encoders: one preprocessing, and patch tokens of chosen layers."""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from sspir.device import constant
from sspir.errors import UserError
from sspir.pretrained.load import load_transformers

E = TypeVar("E", bound="PatchEncoder")
_FIXED = ("layer_norm_eps", "qkv_bias", "hidden_act", "num_channels")  # of a network, where it has them
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class PatchEncoder(ModelMixin, ConfigMixin):
    """A frozen vision transformer: whole images to tokens, with the same preprocessing in training and restoring.

    A new encoder is a class that builds its network and gives the hidden states of its chosen layers. `ModelMixin`
    saves and loads it, also as a part of a pipeline; the class names it as a base once more, as diffusers looks for it
    in the module of the class.
    """

    def pixels(self, images: Tensor) -> Tensor:
        """The network's input for images (B, 3, H, W) in [0, 1] of any size: see `preprocess`."""
        raise NotImplementedError

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Hidden states (B, 1 + patches, width) of the chosen layers, the class token first."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of whole images.

        Args:
            images: (B, 3, H, W) in [0, 1], RGB, of any size.

        Returns:
            (B, L, D) in the type of the weights: patches in reading order, the class token first if there is one; of
            several layers the tokens are joined, the first layer's channels first.
        """
        hidden = torch.cat(self.layers(self.pixels(images.float()).to(self.dtype)), dim=-1)
        return hidden if self.config.class_token else hidden[:, 1:]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Tokens of the chosen layers' patches where they lie, each (B, width, h, w); images as of `forward`."""
        hidden = self.layers(self.pixels(images.float()).to(self.dtype))
        side = isqrt(hidden[0].shape[1] - 1)
        return [tokens[:, 1:].transpose(1, 2).reshape(len(images), -1, side, side) for tokens in hidden]

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Self:
        """Load what `save_pretrained` wrote, in the type it was built in; arguments as of `ModelMixin`."""
        encoder: Self = super().from_pretrained(*arguments, **options)
        return encoder.cast(encoder.config.weights_dtype)

    def cast(self, dtype: str) -> Self:
        """Hold the weights in a type such as "bfloat16"; diffusers' own `to` warns that nothing stays float32."""
        return torch.nn.Module.to(self, getattr(torch, dtype))


def frozen_encoder(cls: type[E], vision: Any, layers: list[int], dtype: str, **settings: Any) -> E:
    """Build a frozen encoder with the weights of a pretrained network, up to the last of the chosen layers.

    Args:
        cls: `CLIPImageEncoder` or `DINOv2ImageEncoder`.
        vision: a network of transformers.
        layers: of `chosen_layers`.
        dtype: of the weights.
        settings: the constructor's other arguments.

    Raises:
        UserError: the network has a setting that the class knows with one value alone.
    """
    found = vision.config
    encoder: Any = cls(
        dim=found.hidden_size,
        depth=layers[-1],
        heads=found.num_attention_heads,
        image_size=found.image_size,
        patch_size=found.patch_size,
        taken=layers,
        weights_dtype=dtype,
        **settings,
    )
    for name in _FIXED:
        if (its := getattr(found, name, None)) != (ours := getattr(encoder.vision.config, name, None)):
            raise UserError(f"{vision.name_or_path} has {name}={its}, and {cls.__name__} {ours}; take another network.")
    weights = vision.state_dict()
    encoder.vision.load_state_dict({name: weights[name] for name in encoder.vision.state_dict()})
    return encoder.eval()


def load_vision(
    cls: Any, path: str, dim: int, layer: int | Sequence[int], revision: str | None
) -> tuple[Any, list[int]]:
    """Load a vision transformer of transformers, and check that it has the layers and the width that a setting states.

    Args:
        cls: the class of transformers.
        path: a local folder or a hub id.
        dim: width of the tokens.
        layer: see `chosen_layers`.
        revision: commit, tag or branch of a hub id.

    Returns:
        The network, and the numbers of the layers.

    Raises:
        UserError: the weights cannot be loaded, or lack the width or layer.
    """
    vision = load_transformers(cls, path, "image_encoder.path", revision=revision)
    layers = chosen_layers(layer, vision.config.num_hidden_layers, path)
    require_width(path, vision.config.hidden_size, layers, dim)
    return vision, layers


def preprocess(
    images: Tensor,
    size: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    antialias: bool = False,
) -> Tensor:
    """Squash whole images (B, 3, H, W) in [0, 1] to (B, 3, size, size) and normalise them.

    By default as CLIP in the authors' training (`dataloaders/paired_dataset.py:163-165`): bicubic without antialias.
    """
    squashed = F.interpolate(images, (size, size), mode="bicubic", antialias=antialias, align_corners=False).clamp(0, 1)
    shift, scale = (constant(tuple(values), squashed).view(1, 3, 1, 1) for values in (mean, std))
    return (squashed - shift) / scale


def chosen_layers(layer: int | Sequence[int], depth: int, path: str) -> list[int]:
    """Numbers from 1 to `depth` of the layers that a setting names, ascending.

    Args:
        layer: 1 for the first, -1 for the last; or several.
        depth: layers there are.
        path: of the weights, for messages.

    Raises:
        UserError: there is no such layer.
    """
    named = [layer] if isinstance(layer, int) else list(layer)
    found = sorted({number if number > 0 else depth + 1 + number for number in named})
    wrong = [number for number in named if not 1 <= (number if number > 0 else depth + 1 + number) <= depth]
    if wrong or not found:
        raise UserError(f"{path} has {depth} layers, so image_encoder.layer cannot be {wrong[0] if wrong else named}.")
    return found


def require_width(path: str, width: int, layers: Sequence[int], dim: int) -> None:
    """Refuse a stated token width that is not the encoder's."""
    found = width * len(layers)
    if found != dim:
        of = f" ({len(layers)} layers of {width})" if len(layers) > 1 else ""
        raise UserError(f"{path} has tokens of width {found}{of}; set image_encoder.dim to that, not {dim}.")

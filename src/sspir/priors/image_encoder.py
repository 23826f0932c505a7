"""The implicit semantic prior: patch tokens of a CLIP image encoder, refined to image embeddings."""

from typing import Self

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sspir.errors import UserError
from sspir.pretrained import load_transformers

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class CLIPImageEncoder(ModelMixin, ConfigMixin):
    """CLIP's vision transformer up to one of its layers, with the one preprocessing of training and restoring.

    Args:
        dim: width of the tokens.
        depth: layers; the last one's output, before CLIP's final layer norm, is the result.
        heads: of attention.
        feed_forward: width inside the feed-forward; 4 dim by default.
        image_size: side that images are squashed to, pixels.
        patch_size: side of a patch, pixels.
        activation: of the feed-forward: "quick_gelu" (OpenAI's CLIP) or "gelu".
        class_token: whether the first token, of the whole image, is part of the result.
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        feed_forward: int | None = None,
        image_size: int = 224,
        patch_size: int = 14,
        activation: str = "quick_gelu",
        class_token: bool = False,
    ) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=feed_forward or 4 * dim,
            image_size=image_size,
            patch_size=patch_size,
            hidden_act=activation,
        )
        self.vision = CLIPVisionModel(config)

    @classmethod
    def from_clip(cls, path: str, dim: int = 1024, layer: int = -1, class_token: bool = False) -> Self:
        """The vision half of somebody's CLIP, frozen; the paper's is "openai/clip-vit-large-patch14".

        Args:
            path: a local folder or a hub id.
            dim: width that the CLIP must have; the configuration states it for the parts that depend on it.
            layer: whose output to take, 1 for the first; -1 for the last, -2 for the one before it.
            class_token: whether the first token is part of the result.

        Raises:
            UserError: if the weights cannot be had or do not have that width or layer.
        """
        from transformers import CLIPVisionModel

        vision = load_transformers(CLIPVisionModel, path, "image_encoder.path")
        found = vision.config
        layers = found.num_hidden_layers
        depth = layer if layer > 0 else layers + 1 + layer
        if not 1 <= depth <= layers:
            raise UserError(f"{path} has {layers} layers, so image_encoder.layer cannot be {layer}.")
        if found.hidden_size != dim:
            raise UserError(
                f"{path} has tokens of width {found.hidden_size}; set image_encoder.dim to that, not {dim}."
            )
        encoder = cls(
            dim=dim,
            depth=depth,
            heads=found.num_attention_heads,
            feed_forward=found.intermediate_size,
            image_size=found.image_size,
            patch_size=found.patch_size,
            activation=found.hidden_act,
            class_token=class_token,
        )
        wanted = encoder.vision.state_dict()
        encoder.vision.load_state_dict({name: vision.state_dict()[name] for name in wanted})
        return encoder.eval()

    @classmethod
    def tiny(
        cls,
        dim: int = 32,
        depth: int = 2,
        image_size: int = 64,
        patch_size: int = 8,
        class_token: bool = False,
        seed: int = 0,
    ) -> Self:
        """Random weights, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                dim=dim,
                depth=depth,
                heads=2,
                image_size=image_size,
                patch_size=patch_size,
                class_token=class_token,
            ).eval()

    @property
    def dim(self) -> int:
        """Width of a token, D."""
        return int(self.config.dim)

    @property
    def tokens(self) -> int:
        """Number of tokens, L."""
        return int((self.config.image_size // self.config.patch_size) ** 2 + self.config.class_token)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of whole images.

        Args:
            images: (B, 3, H, W) in [0, 1], RGB, of any size.

        Returns:
            (B, L, D), patches in reading order, the class token first if there is one.
        """
        pixels = preprocess(images.float(), self.config.image_size)
        hidden_states = self.vision(pixels.to(self.dtype)).last_hidden_state
        return hidden_states if self.config.class_token else hidden_states[:, 1:]


def preprocess(images: Tensor, size: int) -> Tensor:
    """Whole images (B, 3, H, W) in [0, 1] squashed to (B, 3, size, size) and normalised as CLIP's.

    Bicubic without antialias, as in the authors' training (`dataloaders/paired_dataset.py:163-165`); the weights of
    CLIP itself were trained with it.
    """
    squashed = F.interpolate(images, (size, size), mode="bicubic", antialias=False, align_corners=False).clamp(0, 1)
    mean, std = (squashed.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (squashed - mean) / std


class RefineLayer(ModelMixin, ConfigMixin):
    """Image tokens to the image embeddings that image attention reads: the paper's Refine layer.

    [linear, layer norm, leaky ReLU] twice and a linear layer (SSP-IR `TPBNet`, `models/model.py:338-376`).

    Args:
        input_dim: width of the image encoder's tokens.
        dim: width of the image embeddings.
    """

    @register_to_config
    def __init__(self, input_dim: int = 1024, dim: int = 512) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(input_dim, input_dim),
            nn.LayerNorm(input_dim),
            nn.LeakyReLU(),
            nn.Linear(input_dim, input_dim),
            nn.LayerNorm(input_dim),
            nn.LeakyReLU(),
            nn.Linear(input_dim, dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Image embeddings (B, L, dim) of tokens (B, L, input_dim)."""
        return self.projection(tokens)

    def load_authors(self, state_dict: dict[str, Tensor]) -> None:
        """Load the authors' weights, named `visual_projection.N.*` with any prefix.

        Raises:
            UserError: if a weight is missing, unexpected or of another shape.
        """
        ours = {f"projection.{name.rpartition('visual_projection.')[2]}": value for name, value in state_dict.items()}
        wanted = self.state_dict()
        faults = [f"lacks {name}" for name in sorted(wanted.keys() - ours.keys())]
        faults += [f"has an unexpected {name}" for name in sorted(ours.keys() - wanted.keys())]
        faults += [
            f"has {name} of shape {tuple(ours[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & ours.keys())
            if ours[name].shape != wanted[name].shape
        ]
        if faults:
            raise UserError(f"This Refine layer does not fit: it {', '.join(faults)}.")
        self.load_state_dict(ours)

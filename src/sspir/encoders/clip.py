"""Patch tokens of a CLIP image encoder."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from sspir.encoders.drawn import draw_weights
from sspir.encoders.patch import PatchEncoder, frozen_encoder, load_vision, preprocess


class CLIPImageEncoder(PatchEncoder, ModelMixin, ConfigMixin):
    """CLIP's vision transformer up to one of its layers; its tokens are taken before CLIP's final layer norm.

    Args:
        dim: width of the network.
        depth: layers.
        heads: of attention.
        feed_forward: width inside the feed-forward; 4 dim by default.
        image_size: side that images are squashed to, pixels.
        patch_size: side of a patch, pixels.
        activation: of the feed-forward: "quick_gelu" (OpenAI's CLIP) or "gelu".
        class_token: whether the first token, of the whole image, is part of the result.
        taken: layers whose outputs are the result, 1 for the first; None takes the last.
        weights_dtype: type of the weights.
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
        taken: Sequence[int] | None = None,
        weights_dtype: str = "float32",
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
        self.cast(weights_dtype)

    @classmethod
    def from_clip(
        cls,
        path: str,
        dim: int = 1024,
        layer: int | Sequence[int] = -1,
        class_token: bool = False,
        revision: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """The frozen vision half of a pretrained CLIP; the paper's is "openai/clip-vit-large-patch14".

        Args:
            path: a local folder or a hub id.
            dim: width of the tokens; the configuration states it for the parts that depend on it.
            layer: whose output to take, 1 for the first; -1 for the last, -2 for the one before it. Several: their
                tokens are joined, so `dim` is a multiple of the CLIP's width.
            class_token: whether the first token is part of the result.
            revision: commit, tag or branch of a hub id.
            dtype: of the weights: "float32", "bfloat16" or "float16".

        Raises:
            UserError: the weights cannot be loaded, or lack the width or layer.
        """
        from transformers import CLIPVisionModel

        vision, layers = load_vision(CLIPVisionModel, path, dim, layer, revision)
        own = {"feed_forward": vision.config.intermediate_size, "activation": vision.config.hidden_act}
        return frozen_encoder(cls, vision, layers, dtype, class_token=class_token, **own)

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
            made = cls(
                dim=dim, depth=depth, heads=2, image_size=image_size, patch_size=patch_size, class_token=class_token
            ).eval()
        draw_weights(made.vision, seed)
        return made

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, size, size), as the authors'."""
        return preprocess(images, self.config.image_size)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Hidden states (B, 1 + patches, width) of the chosen layers."""
        states = self.vision(pixels, output_hidden_states=True).hidden_states
        return [states[number] for number in self.config.taken or [-1]]

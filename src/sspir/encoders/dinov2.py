"""DINOv2 as image encoder: learned from images alone, its tokens tell rather where things are than what they are."""

from collections.abc import Sequence
from typing import Self

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from sspir.encoders.patch import PatchEncoder, frozen_encoder, load_vision, preprocess
from sspir.errors import UserError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as DINOv2's preprocessor has them


class DINOv2ImageEncoder(PatchEncoder, ModelMixin, ConfigMixin):
    """DINOv2's vision transformer; every output passes its final layer norm, as in its own `get_intermediate_layers`.

    Args:
        dim: width of the network.
        depth: layers.
        heads: of attention.
        mlp_ratio: width inside the feed-forward, in widths of the network.
        swiglu: gated feed-forward, of the giant model.
        image_size: side of the images it was trained on, pixels: the size of its position embeddings.
        input_size: side that images are squashed to, pixels; positions are interpolated to it.
        patch_size: side of a patch, pixels.
        taken: layers whose outputs are the result, 1 for the first; None takes the last.
        class_token: whether the token of the whole image is part of the result.
        weights_dtype: type of the weights.
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: int = 4,
        swiglu: bool = False,
        image_size: int = 518,
        input_size: int = 224,
        patch_size: int = 14,
        taken: Sequence[int] | None = None,
        class_token: bool = False,
        weights_dtype: str = "float32",
    ) -> None:
        from transformers import Dinov2Config, Dinov2Model

        super().__init__()
        config = Dinov2Config(
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            mlp_ratio=mlp_ratio,
            use_swiglu_ffn=swiglu,
            image_size=image_size,
            patch_size=patch_size,
        )
        self.vision = Dinov2Model(config)
        self.cast(weights_dtype)

    @classmethod
    def from_dinov2(
        cls,
        path: str,
        dim: int = 1024,
        layer: int | Sequence[int] = -1,
        input_size: int = 224,
        class_token: bool = False,
        revision: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """A frozen pretrained DINOv2.

        Args:
            path: a local folder or a hub id, e.g. "facebook/dinov2-large".
            dim: width of the tokens; the configuration states it for the parts that depend on it.
            layer: whose output to take, 1 for the first, -1 for the last; several are joined.
            input_size: side that images are squashed to, pixels; a multiple of the patch size. 224 gives 256 tokens.
            class_token: whether the first token is part of the result.
            revision: commit, tag or branch of a hub id.
            dtype: of the weights: "float32", "bfloat16" or "float16".

        Raises:
            UserError: the weights cannot be loaded, or lack the width or layer.
        """
        from transformers import Dinov2Model

        vision, layers = load_vision(Dinov2Model, path, dim, layer, revision)
        patch = vision.config.patch_size
        if input_size % patch:
            raise UserError(
                f"image_encoder.input_size={input_size} is no multiple of the patches' {patch} pixels; "
                f"take {input_size // patch * patch}."
            )
        own = {"mlp_ratio": vision.config.mlp_ratio, "swiglu": vision.config.use_swiglu_ffn, "input_size": input_size}
        return frozen_encoder(cls, vision, layers, dtype, class_token=class_token, **own)

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, size, size), as DINOv2's preprocessor without its crop."""
        return preprocess(images, self.config.input_size, _MEAN, _STD, antialias=True)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Hidden states (B, 1 + patches, width) of the chosen layers."""
        states = self.vision(pixels, output_hidden_states=True).hidden_states
        return [self.vision.layernorm(states[number]) for number in self.config.taken or [-1]]

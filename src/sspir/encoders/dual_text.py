"""Stable Diffusion XL's two text models as one."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from sspir.pretrained.load import load_transformers

_END, _PADDING = 49407, 0  # the second model's texts are padded with "!", the first's with the end token
_KEPT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim",
         "hidden_act", "vocab_size", "max_position_embeddings", "eos_token_id", "pad_token_id")  # fmt: skip


class TextOutput(NamedTuple):
    """Embeddings of one window of 77 tokens.

    Attributes:
        last_hidden_state: (B, 77, D) of both models, joined.
        pooled: (B, D) the second model's embedding of the whole text, padded with zeros.
    """

    last_hidden_state: Tensor
    pooled: Tensor


class DualTextEncoder(ModelMixin, ConfigMixin):
    """Both text models side by side: the layer before the last of each, and the pooled text of the second.

    Args:
        first: configuration of CLIP ViT-L's text model.
        second: configuration of OpenCLIP ViT-bigG's.
        hidden_size: width of both together, D.
    """

    @register_to_config
    def __init__(self, first: Mapping[str, Any], second: Mapping[str, Any], hidden_size: int) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        super().__init__()
        self.small = CLIPTextModel(CLIPTextConfig(**first))
        self.large = CLIPTextModelWithProjection(CLIPTextConfig(**second))

    @classmethod
    def from_stable_diffusion(cls, path: str, revision: str | None = None, dtype: str = "float32") -> Self:
        """The text models of a Stable Diffusion XL: `text_encoder` and `text_encoder_2` of a folder or hub id.

        Raises:
            UserError: the weights cannot be loaded.
        """
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        setting = "text_encoder.path"
        small = load_transformers(CLIPTextModel, path, setting, "text_encoder", revision)
        large = load_transformers(CLIPTextModelWithProjection, path, setting, "text_encoder_2", revision)
        configs = [{key: getattr(model.config, key) for key in _KEPT} for model in (small, large)]
        width = small.config.hidden_size + large.config.hidden_size
        encoder = cls(*configs, hidden_size=width)
        encoder.small.load_state_dict(small.state_dict())
        encoder.large.load_state_dict(large.state_dict())
        return torch.nn.Module.to(encoder, getattr(torch, dtype)).eval()

    def forward(self, ids: Tensor) -> TextOutput:
        """Embed token ids (B, 77), short texts padded with the end token."""
        past_end = (ids == _END).cumsum(dim=1) > 1
        small = self.small(ids, output_hidden_states=True)
        large = self.large(ids.masked_fill(past_end, _PADDING), output_hidden_states=True)
        tokens = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], dim=-1)
        return TextOutput(tokens, F.pad(large.text_embeds, (0, tokens.shape[-1] - large.text_embeds.shape[-1])))

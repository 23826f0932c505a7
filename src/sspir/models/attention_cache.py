"""Attention in training and sampling; what does not change between steps or guidance halves is computed once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from sspir.models.controlled_unet import ControlledUNet
from sspir.models.cpu_attention import bf16_attention

_MOST_HELD = 4  # contexts per layer: those of the tile batches; tokens of single tiles would pile up


class SharedAttention:
    """What diffusers' `AttnProcessor2_0` computes, for contexts that fewer rows, or many steps, share.

    Args:
        remember: keep keys and values of the tensors seen; for contexts that are handed in again at every step.
    """

    def __init__(self, remember: bool) -> None:
        self.remember = remember
        self.held: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        """Attend from (B, N, C) to a context (b, L, D), which is repeated where b divides B, or to itself."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        key, value = self._key_and_value(attn, context)
        query = _split(attn.to_q(hidden_states), attn.heads)
        rows = len(hidden_states) // len(key)
        if rows > 1:
            key, value = (tensor.repeat(rows, 1, 1, 1) for tensor in (key, value))
        attended = bf16_attention(query, key, value).transpose(1, 2).flatten(2)
        projected, dropout = attn.to_out
        result: Tensor = dropout(projected(attended.to(query.dtype)))
        return result

    def _key_and_value(self, attn: Attention, context: Tensor) -> tuple[Tensor, Tensor]:
        # A compiled step is a function of its inputs: it keeps nothing, and computes keys and values again
        remembering = self.remember and not torch.compiler.is_compiling()
        for seen, key, value in self.held if remembering else ():
            if seen is context:
                return key, value
        normed = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
        key, value = (_split(project(normed), attn.heads) for project in (attn.to_k, attn.to_v))
        if remembering and len(self.held) < _MOST_HELD:
            self.held.append((context, key, value))
        return key, value


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return tokens.view(*tokens.shape[:2], heads, -1).transpose(1, 2)


@contextmanager
def shared_attention(backbone: ControlledUNet, remember: bool = True) -> Iterator[None]:
    """Within, attention of every part shares and, but in training, remembers; afterwards all is as it was."""
    replaced: list[tuple[Attention, Any]] = []
    for name, part in backbone.named_children():
        for path, module in part.named_modules():
            if isinstance(module, Attention):
                replaced.append((module, module.processor))
                module.processor = SharedAttention(remember and path.endswith("attn2") and name != "unet_pixel")
    try:
        yield
    finally:
        for module, processor in replaced:
            module.processor = processor

"""The attention processor of CPUs, where what steps or the texts of guidance share is computed once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sspir.models.cpu_attention import bf16_attention

_MOST_HELD = 4  # contexts per layer: those of the tile batches; tokens of single tiles would pile up


class CPUAttnProcessor:
    """What diffusers' `AttnProcessor2_0` computes, for contexts that fewer rows, or many steps, share.

    Args:
        remember: keep keys and values of the tensors seen; for contexts that are handed in again at every step.
        first: it runs before anything tells the texts of one latent apart.
    """

    def __init__(self, remember: bool, first: bool) -> None:
        self.remember = remember
        self.first = first
        self.held: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
        texts: int = 1,
    ) -> Tensor:
        """Attend from (B, N, C) to a context (b, L, D), which is repeated where b divides B, or to itself.

        The first processor attends from the first of `texts` equal parts of the rows, and repeats what it finds.
        """
        if texts > 1 and self.first:
            return self(attn, hidden_states.chunk(texts)[0]).repeat(texts, 1, 1)
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
def cpu_attention(backbone: nn.Module, device: torch.device, remember: bool = True) -> Iterator[None]:
    """Within, every part attends by `CPUAttnProcessor` where it runs on a CPU; another device keeps what it has.

    Args:
        backbone: a `ControlledUNet`.
        device: where it runs; its weights may wait elsewhere.
        remember: keep keys and values, but in training.
    """
    replaced: list[tuple[Attention, Any]] = []
    for name, part in backbone.named_children() if device.type == "cpu" else ():
        for path, module in part.named_modules():
            if isinstance(module, Attention):
                replaced.append((module, module.processor))
                module.processor = CPUAttnProcessor(
                    remember and path.endswith("attn2") and name != "unet_pixel",
                    path.endswith("transformer_blocks.0.attn1"),
                )
    try:
        yield
    finally:
        for module, processor in replaced:
            module.processor = processor


def shares_rows(transformer: Any) -> bool:
    """Whether the attention of a transformer takes contexts of fewer rows than the map has, and a number of texts."""
    return isinstance(transformer.transformer_blocks[0].attn1.processor, CPUAttnProcessor)


def spread(tensor: Tensor, rows: Tensor) -> Tensor:
    """Repeat a tensor (b, ...) to the rows of another (B, ...), where it has fewer.

    Guidance tells one latent two texts: all that is computed before the first text is computed once.
    """
    copies = len(rows) // len(tensor)
    return tensor if copies == 1 else tensor.repeat(copies, *[1] * (tensor.ndim - 1))

"""How the blocks of a stock U-Net are run one layer at a time, with attention of ours between their layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from sspir.errors import UserError
from sspir.models.attention_adapter import AttentionAdapter, NoAttention

Adapter = AttentionAdapter | NoAttention


def encode(
    net: UNet2DConditionModel | ControlNetModel,
    image_attention: Adapter,
    hidden: Tensor,
    temb: Tensor,
    prompt_embeds: Tensor,
    image_embeds: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Down and mid path of a U-Net or a ControlNet.

    Args:
        net: the network; `hidden` is the output of its `conv_in`.
        image_attention: adapter whose layers stand between resnet and text attention.
        hidden: (B, C, h, w).
        temb: (B, D) embedded timestep.
        prompt_embeds: (B, L, D) caption tokens.
        image_embeds: (B, L, D) image tokens.

    Returns:
        The mid output and the skips, finest first.
    """
    skips = [hidden]
    for level, block in enumerate(net.down_blocks):
        for index, (resnet, attention) in enumerate(zip(block.resnets, texts_of(block), strict=True)):
            hidden = run(block, resnet, hidden, temb)
            hidden = image_attention(f"down{level}_{index}", hidden, image_embeds)
            hidden = attention(hidden, prompt_embeds)
            skips.append(hidden)
        for downsample in block.downsamplers or ():
            hidden = downsample(hidden)
            skips.append(hidden)
    block = net.mid_block
    first, last = block.resnets
    hidden = first(hidden, temb)
    hidden = image_attention("mid", hidden, image_embeds)
    (attention,) = texts_of(block)
    hidden = attention(hidden, prompt_embeds)
    return run(block, last, hidden, temb), skips


def run(block: Any, resnet: nn.Module, hidden: Tensor, temb: Tensor) -> Tensor:
    """A resnet, recomputed in the backward pass where the block's stock switch says so."""
    if block.gradient_checkpointing and torch.is_grad_enabled():
        return block._gradient_checkpointing_func(resnet, hidden, temb)
    return resnet(hidden, temb)


def texts_of(block: Any) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """The text attentions of a block, one per layer; where it has none, the map passes through."""
    if not hasattr(block, "attentions"):
        return [_no_text] * len(block.resnets)
    return [partial(_text, attention) for attention in block.attentions]


def _text(attention: nn.Module, hidden: Tensor, prompt_embeds: Tensor) -> Tensor:
    return attention(spread(hidden, prompt_embeds), encoder_hidden_states=prompt_embeds, return_dict=False)[0]


def spread(hidden: Tensor, rows: Tensor) -> Tensor:
    """Repeat a map (b, C, h, w) to the rows of another tensor, where it has fewer.

    Guidance tells one latent two texts: all that is computed before the first text is computed once.
    """
    return hidden if len(hidden) == len(rows) else hidden.repeat(len(rows) // len(hidden), 1, 1, 1)


def _no_text(hidden: Tensor, _: Tensor) -> Tensor:
    return hidden


def embed_time(net: UNet2DConditionModel | ControlNetModel, timestep: Tensor, sample: Tensor) -> Tensor:
    """Embedding (B, D) of a timestep (B,), or (1, D) of a scalar."""
    features = net.time_proj(timestep.reshape(-1))
    embedding: Tensor = net.time_embedding(features.to(sample.dtype))
    return embedding


def refuse_unknown(unet: UNet2DConditionModel) -> None:
    """Refuse a U-Net that does more than this forward pass does.

    Raises:
        UserError: with the settings that are not known.
    """
    known = {"time_embedding_type": "positional", "mid_block_type": "UNetMidBlock2DCrossAttn"}
    absent = (
        "class_embed_type",
        "addition_embed_type",
        "encoder_hid_dim",
        "time_embedding_act_fn",
        "dual_cross_attention",
    )
    wrong = [key for key, value in known.items() if unet.config[key] != value]
    wrong += [key for key in absent if unet.config[key]]
    wrong += ["center_input_sample"] if unet.config.center_input_sample else []
    if wrong:
        settings = ", ".join(f"{key}={unet.config[key]!r}" for key in wrong)
        raise UserError(f"This U-Net has {settings}; only Stable Diffusion 1.x and 2.x U-Nets are supported.")

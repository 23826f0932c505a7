"""Run the blocks of a stock U-Net layer by layer, with our attention between the layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from sspir.device import kept_on_device
from sspir.errors import UserError
from sspir.models.attention_adapter import AttentionAdapter, NoAttention
from sspir.models.attention_processor import shares_rows, spread

Adapter = AttentionAdapter | NoAttention
Text = Callable[[Tensor, Tensor], Tensor]
_XL_FACTOR = 8  # image pixels per latent pixel of Stable Diffusion XL, which is told the size of its image


class NoControlNet(nn.Module):
    """A ControlNet switched off: nothing of an image's structure reaches the U-Net.

    Args:
        unet: whose skips get nothing.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.skips = 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in unet.down_blocks)
        self.controlnet_cond_embedding = nn.Identity()  # nothing looks at the image

    def forward(self, sample: Tensor) -> tuple[list[Tensor], Tensor]:
        """Zero for every skip and for the mid block."""
        zero = sample.new_zeros(())
        return [zero] * self.skips, zero


def down_and_mid(
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
        image_attention: adapter whose layers stand before or after text attention.
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
            hidden = attend_semantics(
                f"down{level}_{index}", hidden, image_attention, image_embeds, attention, prompt_embeds
            )
            skips.append(hidden)
        for downsample in block.downsamplers or ():
            hidden = downsample(hidden)
            skips.append(hidden)
    block = net.mid_block
    first, last = block.resnets
    hidden = first(hidden, temb)
    (attention,) = texts_of(block)
    hidden = attend_semantics("mid", hidden, image_attention, image_embeds, attention, prompt_embeds)
    return run(block, last, hidden, temb), skips


def attend_semantics(
    name: str, hidden: Tensor, image_attention: Adapter, image_embeds: Tensor, attention: Text, prompt_embeds: Tensor
) -> Tensor:
    """The semantic priors of one layer: image tokens and then the caption, or the other way round."""
    if image_attention.after_text:
        return image_attention(name, attention(hidden, prompt_embeds), image_embeds)
    return attention(image_attention(name, hidden, image_embeds), prompt_embeds)


def run(block: Any, resnet: nn.Module, hidden: Tensor, temb: Tensor) -> Tensor:
    """A resnet, recomputed in the backward pass where the block's stock switch says so."""
    if block.gradient_checkpointing and torch.is_grad_enabled():
        return block._gradient_checkpointing_func(resnet, hidden, temb)
    return resnet(hidden, temb)


def texts_of(block: Any) -> list[Text]:
    """The text attentions of a block, one per layer; where it has none, the map passes through."""
    if not hasattr(block, "attentions"):
        return [_no_text] * len(block.resnets)
    return [partial(_text, attention) for attention in block.attentions]


def _text(transformer: Any, hidden: Tensor, prompt_embeds: Tensor) -> Tensor:
    texts = len(prompt_embeds) // len(hidden)
    told = {"texts": texts} if texts > 1 and shares_rows(transformer) else None
    return transformer(spread(hidden, prompt_embeds), prompt_embeds, cross_attention_kwargs=told, return_dict=False)[0]


def _no_text(hidden: Tensor, _: Tensor) -> Tensor:
    return hidden


def embed_time(
    net: UNet2DConditionModel | ControlNetModel, timestep: Tensor, sample: Tensor, pooled: Tensor | None
) -> Tensor:
    """Embedding (B, D) of a timestep (B,), or (1, D) of a scalar; with a pooled caption, of both and the image's size.

    Args:
        net: whose embedding it is.
        timestep: (B,) or scalar.
        sample: (B, 4, h, w), whose size and type count.
        pooled: (B, P) of Stable Diffusion XL, None for the others.
    """
    features = net.time_proj(timestep.reshape(-1))
    embedding: Tensor = net.time_embedding(features.to(sample.dtype))
    if pooled is None:
        return embedding
    sizes = net.add_time_proj(_sizes(sample.device, *sample.shape[-2:])).flatten()
    added = sizes.expand(len(pooled), -1).to(sample.dtype)
    return embedding + net.add_embedding(torch.cat([pooled.to(sample.dtype), added], dim=-1))


@kept_on_device
def _sizes(height: int, width: int) -> Tensor:
    """What Stable Diffusion XL is told of a latent's image: its size as photographed, its corner, the size wanted."""
    height, width = _XL_FACTOR * height, _XL_FACTOR * width
    return torch.tensor([height, width, 0, 0, height, width])


class Prompt(NamedTuple):
    """Caption embeddings as the layers read them.

    Attributes:
        tokens: (B, L, D).
        pooled: (B, P) the pooled caption of Stable Diffusion XL, None for the others.
    """

    tokens: Tensor
    pooled: Tensor | None


def split_pooled(net: UNet2DConditionModel | ControlNetModel, prompt_embeds: Tensor | Prompt) -> Prompt:
    """Caption tokens, and for Stable Diffusion XL the pooled caption that its prompt embeddings end in.

    Args:
        net: that reads them.
        prompt_embeds: (B, L, D), or (B, L + 1, D) whose last row begins with the pooled caption (B, P). What is split
            already comes back as it is: many steps then see the same tensors, by which keys and values are remembered.
    """
    if isinstance(prompt_embeds, Prompt):
        return prompt_embeds
    if not net.config.addition_embed_type:
        return Prompt(prompt_embeds, None)
    width = net.config.projection_class_embeddings_input_dim - 6 * net.config.addition_time_embed_dim
    return Prompt(prompt_embeds[:, :-1], prompt_embeds[:, -1, :width])


def refuse_unknown(unet: UNet2DConditionModel) -> None:
    """Refuse a U-Net that does more than this forward pass does.

    Raises:
        UserError: with the settings that are not known.
    """
    known: dict[str, tuple[Any, ...]] = {
        "time_embedding_type": ("positional",),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    }
    known |= {"addition_embed_type": (None, "text_time"), "conv_in_kernel": (3,), "conv_out_kernel": (3,)}
    absent = (
        "class_embed_type", "num_class_embeds", "encoder_hid_dim", "time_embedding_act_fn", "timestep_post_act",
        "time_cond_proj_dim", "dual_cross_attention", "attention_type", "center_input_sample",
    )  # fmt: skip
    wrong = [key for key, values in known.items() if unet.config[key] not in values]
    wrong += [key for key in absent if unet.config[key] not in (None, False, "default")]
    if wrong:
        settings = ", ".join(f"{key}={unet.config[key]!r}" for key in wrong)
        raise UserError(f"This U-Net has {settings}; only Stable Diffusion 1.x, 2.x and XL U-Nets are supported.")

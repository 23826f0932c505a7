"""Attention beside a frozen U-Net: image cross-attention and pixel attention, keyed by the layer they serve."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from sspir.models.attention_processor import shares_rows, spread


class Layer(NamedTuple):
    """One U-Net layer: a resnet and what follows it.

    Attributes:
        name: "down0_1", "mid" or "up2_0": path, level in the order of computation, index in the level.
        channels: C of its output.
        heads: of this level's text attention; those of the mid block where a level has none.
        has_text: whether a text cross-attention follows.
        skip_channels: C of the skip it consumes; 0 outside the up path.
    """

    name: str
    channels: int
    heads: int
    has_text: bool
    skip_channels: int


def layers_of(net: UNet2DConditionModel | ControlNetModel) -> Iterator[Layer]:
    """Yield the layers of a U-Net, or of the half that a ControlNet copies, in the order of computation."""
    if not hasattr(net, "mid_block"):
        return  # a ControlNet switched off
    mid = net.mid_block.attentions[0]
    mid_heads = mid.config.num_attention_heads
    skips = [net.conv_in.out_channels]
    for name, block, resnet, text in _blocks(net.down_blocks, "down"):
        heads = text.config.num_attention_heads if text else mid_heads
        yield Layer(name, resnet.out_channels, heads, text is not None, 0)
        skips.append(resnet.out_channels)
        if resnet is block.resnets[-1] and block.downsamplers:
            skips.append(resnet.out_channels)
    yield Layer("mid", mid.config.in_channels, mid_heads, True, 0)
    for name, _, resnet, text in _blocks(getattr(net, "up_blocks", ()), "up"):
        heads = text.config.num_attention_heads if text else mid_heads
        yield Layer(name, resnet.out_channels, heads, text is not None, skips.pop())


def _blocks(blocks: Any, path: str) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, block, resnet and text attention (None where there is none) of every layer."""
    for level, block in enumerate(blocks):
        texts = getattr(block, "attentions", [None] * len(block.resnets))
        for index, (resnet, text) in enumerate(zip(block.resnets, texts, strict=True)):
            yield f"{path}{level}_{index}", block, resnet, text


class AttentionAdapter(ModelMixin, ConfigMixin):
    """Transformers beside named layers of a U-Net (the multi-level attention of SSP-IR).

    Each is a whole `Transformer2DModel`: group norm, self-attention, cross-attention to the context, feed-forward,
    and the outer residual. It is saved on its own, so the U-Net's file is never rewritten.

    Args:
        layers: name -> {"channels", "heads", "context_dim"}.
        norm_groups: groups of the group norm.
        linear_projection: linear instead of 1x1 convolutions around the tokens, as Stable Diffusion 2 has them.
        identity: zero the last layer, so that training starts from the U-Net as it was. The authors' code does not.
        after_text: stand after the text attention of a layer; the authors' image attention stands before it.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        layers: dict[str, dict[str, int]],
        norm_groups: int = 32,
        linear_projection: bool = False,
        identity: bool = True,
        after_text: bool = False,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleDict()
        for name, layer in layers.items():
            transformer = Transformer2DModel(
                num_attention_heads=layer["heads"],
                attention_head_dim=layer["channels"] // layer["heads"],
                in_channels=layer["channels"],
                cross_attention_dim=layer["context_dim"],
                norm_num_groups=norm_groups,
                use_linear_projection=linear_projection,
            )
            if identity:
                nn.init.zeros_(transformer.proj_out.weight)
                nn.init.zeros_(transformer.proj_out.bias)
            self.attentions[name] = transformer

    @property
    def after_text(self) -> bool:
        """Whether the adapter stands after the text attention of a layer."""
        return bool(self.config.after_text)

    @classmethod
    def over_image(
        cls,
        net: UNet2DConditionModel | ControlNetModel,
        image_dim: int,
        levels: Sequence[str] = ("down", "mid", "up"),
        identity: bool = True,
        after_text: bool = False,
    ) -> "Self | NoAttention":
        """Image cross-attention beside every text attention of the levels.

        Args:
            net: the U-Net or ControlNet to serve.
            image_dim: D of the image tokens (B, L, D).
            levels: prefixes of layer names: "up" is every up layer, "up1" the second coarsest level. Empty: none.
            identity: see the class.
            after_text: see the class.
        """
        chosen = {
            layer.name: {"channels": layer.channels, "heads": layer.heads, "context_dim": image_dim}
            for layer in layers_of(net)
            if layer.has_text and layer.name.startswith(tuple(levels))
        }
        return cls._beside(net, chosen, identity, after_text)

    @classmethod
    def over_residuals(
        cls,
        net: UNet2DConditionModel,
        levels: Sequence[str] = ("up",),
        identity: bool = True,
        coarse_heads: int | None = None,
    ) -> "Self | NoAttention":
        """Pixel attention beside the up layers: keys and values are the ControlNet residual of the layer's skip.

        Args:
            net: the U-Net to serve.
            levels: prefixes of names of up layers. Empty: none.
            identity: see the class.
            coarse_heads: heads of levels without text attention; None takes the mid block's. The authors' code has
                one there.
        """
        chosen = {
            layer.name: {
                "channels": layer.channels,
                "heads": layer.heads if layer.has_text or coarse_heads is None else coarse_heads,
                "context_dim": layer.skip_channels,
            }
            for layer in layers_of(net)
            if layer.skip_channels and layer.name.startswith(tuple(levels))
        }
        return cls._beside(net, chosen, identity, after_text=True)

    @classmethod
    def _beside(
        cls, net: Any, layers: dict[str, dict[str, int]], identity: bool, after_text: bool
    ) -> "Self | NoAttention":
        if not layers:
            return NoAttention()
        return cls(layers, net.config.norm_num_groups, net.config.use_linear_projection, identity, after_text)

    def forward(self, name: str, hidden_states: Tensor, context: Tensor) -> Tensor:
        """Attend from one layer's map to the context.

        Args:
            name: of the layer; one that the adapter does not hold passes through.
            hidden_states: (B, C, H, W).
            context: (b, L, D) tokens, or a map (b, D, h, w) whose pixels are the tokens; repeated where b divides B.

        Returns:
            (B, C, H, W).
        """
        if name not in self.attentions:
            return hidden_states
        tokens = context.flatten(2).transpose(1, 2) if context.ndim == 4 else context
        transformer = self.attentions[name]
        if not shares_rows(transformer):
            tokens = spread(tokens, hidden_states)
        attended: Tensor = transformer(hidden_states, tokens, return_dict=False)[0]
        return attended


class NoAttention(nn.Module):
    """An adapter switched off: every layer passes through."""

    after_text = False

    def forward(self, name: str, hidden_states: Tensor, context: Tensor) -> Tensor:
        """Return `hidden_states` (B, C, H, W) unchanged."""
        return hidden_states


def copy_common(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of the layers that two adapters share, as the authors start the ControlNet's image attention."""
    shared = target.state_dict().keys() & source.state_dict().keys()
    state = source.state_dict()
    with torch.no_grad():
        for key, tensor in target.state_dict().items():
            if key in shared:
                tensor.copy_(state[key])

"""The whole denoiser in the paper's order: Processor, ControlNet, U-Net and the attention beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn

from sspir.device import replayed
from sspir.errors import UserError
from sspir.models.attention_adapter import AttentionAdapter, copy_common
from sspir.models.attention_processor import spread
from sspir.models.blocks import (
    Adapter,
    NoControlNet,
    Prompt,
    attend_semantics,
    down_and_mid,
    embed_time,
    refuse_unknown,
    run,
    split_pooled,
    texts_of,
)
from sspir.models.lora import add_lora, hold_base, lora_layers
from sspir.models.offload import fetch
from sspir.models.structure_processor import NoProcessor, StructureProcessor

Processor = StructureProcessor | NoProcessor


class ControlledUNetOutput(NamedTuple):
    """The predictions of one call.

    Attributes:
        noise: (B, 4, h, w), the noise (or velocity, or sample: whatever the network is trained for).
        images: (B, 3, ., .) in [-1, 1], the Processor's images, largest first.
    """

    noise: Tensor
    images: list[Tensor]


class ControlledUNet(nn.Module):
    """Predicts noise, velocity or sample of a latent, guided by a caption, an image embedding and a low-quality image.

    Stock modules stay stock; what SSP-IR adds stands beside them, keyed by the layer it serves.

    Args:
        unet: Stable Diffusion's, frozen unless `train_unet`, but for adapters that it holds.
        controlnet: trained, or its adapters where it holds some; the Processor runs its conditioning embedding.
        processor: the structure prior.
        unet_image: image cross-attention in the U-Net, before text unless it says otherwise.
        controlnet_image: the same in the ControlNet.
        unet_pixel: pixel attention, after text; keys and values are the ControlNet residual of the layer's skip.
        train_unet: train the U-Net too: for bases that were never pretrained.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel | NoControlNet,
        processor: Processor,
        unet_image: Adapter,
        controlnet_image: Adapter,
        unet_pixel: Adapter,
        train_unet: bool = False,
    ) -> None:
        super().__init__()
        refuse_unknown(unet)
        self.unet = unet
        self.controlnet = controlnet
        self.processor = processor
        self.unet_image = unet_image
        self.controlnet_image = controlnet_image
        self.unet_pixel = unet_pixel
        self.train_unet = train_unet

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        processor: Processor,
        image_dim: int = 512,
        image_attention: Sequence[str] = ("down", "mid", "up"),
        pixel_attention: Sequence[str] = ("up",),
        identity: bool = True,
        coarse_heads: int | None = None,
        image_after_text: bool = False,
        controlnet: bool = True,
        train_unet: bool = False,
        dtype: str | None = None,
        lora: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start from a U-Net: the ControlNet copies its encoder, the adapters are new.

        Args:
            unet: a Stable Diffusion 1, 2 or XL U-Net.
            processor: decides the widths of the conditioning embedding.
            image_dim: D of the image tokens.
            image_attention: layer-name prefixes that get image attention; an empty list switches it off.
            pixel_attention: layer-name prefixes that get pixel attention; an empty list switches it off.
            identity: start as the U-Net was. False: default initialisation, and the ControlNet's image attention a copy
                of the U-Net's, as in the authors' code.
            coarse_heads: heads of pixel attention in levels without text; None: the mid block's. The authors' 1.
            image_after_text: image attention after text attention, as SeeSR has it, instead of before.
            controlnet: False leaves it out, and the Processor whose features it alone reads: no structure prior.
            train_unet: see the class.
            dtype: to hold a frozen U-Net in, once it is copied: "bfloat16" halves it. None keeps its own. With
                `lora` the ControlNet's copy is held in it, too.
            lora: rank, alpha and targets of `sspir.models.lora.add_lora`: train adapters on the U-Net and on the
                ControlNet's copy of it, which stays as it is. What is new beside them is trained as ever.

        Raises:
            UserError: the U-Net is of another kind, or pixel attention lacks its ControlNet.
        """
        refuse_unknown(unet)  # before the ControlNet copies what it cannot
        if pixel_attention and not controlnet:
            raise UserError(
                "Pixel attention reads the ControlNet's residuals; with backbone.controlnet=false set "
                "backbone.pixel_attention=[] too, as ablation=no_controlnet does."
            )
        unet.requires_grad_(train_unet)
        control: ControlNetModel | NoControlNet
        if controlnet:
            control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=processor.channels)
        else:
            processor = NoProcessor(processor.channels)
            control = NoControlNet(unet)
        unet_image, control_image = (
            AttentionAdapter.over_image(net, image_dim, image_attention, identity, image_after_text)
            for net in (unet, control)
        )
        copy_common(unet_image, control_image)
        unet_pixel = AttentionAdapter.over_residuals(unet, pixel_attention, identity, coarse_heads)
        if dtype:
            nn.Module.to(unet, getattr(torch, dtype))
        if lora:
            if not isinstance(lora, Mapping):
                raise UserError(f"backbone.lora is {lora!r}; give it as {{rank: 8}}.")
            if unknown := sorted(lora.keys() - {"rank", "alpha", "targets"}):
                raise UserError(f"backbone.lora has no {', '.join(unknown)}; it takes rank, alpha and targets.")
            add_lora({"unet": unet, "controlnet": control}, **lora)
            hold_base(control, dtype)
        return cls(unet, control, processor, unet_image, control_image, unet_pixel, train_unet)

    @replayed
    def structure(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Structure prior of an image, once per image.

        Args:
            lq: (B, 3, H, W) in [0, 1], upscaled to the output's size.

        Returns:
            Features (B, C, h, w) at latent size (without a ControlNet the image itself, which nothing reads), and the
            supervised images, largest first.
        """
        fetch(self.controlnet)
        features, images = self.processor(self.controlnet.controlnet_cond_embedding, lq)
        return features, images

    def control(
        self,
        sample: Tensor,
        timestep: Tensor,
        prompt_embeds: Tensor,
        image_embeds: Tensor,
        features: Tensor,
        conditioning_scale: float = 1.0,
        pooled: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """ControlNet residuals for the U-Net's skips, finest first, and for its mid block."""
        net = self.controlnet
        if isinstance(net, NoControlNet):
            return net(sample)
        fetch(net)
        hidden = net.conv_in(sample)
        if features.shape[-2:] != hidden.shape[-2:]:
            size, latent = tuple(features.shape[-2:]), tuple(hidden.shape[-2:])
            raise UserError(
                f"The low-quality image gives {size} structure features for a latent of {latent}; it must have the "
                f"size of the output, the latent's size times the autoencoder's factor."
            )
        temb = embed_time(net, timestep, sample, pooled)
        hidden = hidden + features if pooled is None else spread(hidden + features, pooled)
        mid, skips = down_and_mid(net, self.controlnet_image, hidden, temb, prompt_embeds, image_embeds)
        pairs = zip(net.controlnet_down_blocks, skips, strict=True)
        residuals, mid = [project(skip) for project, skip in pairs], net.controlnet_mid_block(mid)
        if conditioning_scale == 1:
            return residuals, mid
        return [residual * conditioning_scale for residual in residuals], mid * conditioning_scale

    def denoise(
        self,
        sample: Tensor,
        timestep: Tensor,
        prompt_embeds: Tensor,
        image_embeds: Tensor,
        residuals: list[Tensor],
        mid_residual: Tensor,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Noise (B, 4, h, w) that the U-Net sees under the three priors."""
        net = self.unet
        fetch(net)
        temb = embed_time(net, timestep, sample, pooled)
        hidden = net.conv_in(sample) if pooled is None else spread(net.conv_in(sample), pooled)
        hidden, skips = down_and_mid(net, self.unet_image, hidden, temb, prompt_embeds, image_embeds)
        hidden = hidden + mid_residual
        skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]
        residuals = list(residuals)
        for level, block in enumerate(net.up_blocks):
            for index, (resnet, attention) in enumerate(zip(block.resnets, texts_of(block), strict=True)):
                name, residual = f"up{level}_{index}", residuals.pop()
                hidden = run(block, resnet, torch.cat([hidden, spread(skips.pop(), hidden)], dim=1), temb)
                # Implicit and explicit semantic priors, then the structure prior
                hidden = attend_semantics(name, hidden, self.unet_image, image_embeds, attention, prompt_embeds)
                hidden = self.unet_pixel(name, hidden, residual)
            for upsample in block.upsamplers or ():
                hidden = upsample(hidden, skips[-1].shape[-2:])
        noise: Tensor = net.conv_out(net.conv_act(net.conv_norm_out(hidden)))
        return noise

    @replayed
    def predict(
        self,
        sample: Tensor,
        timestep: Tensor,
        prompt_embeds: Tensor | Prompt,
        image_embeds: Tensor,
        features: Tensor,
        conditioning_scale: float = 1.0,
    ) -> Tensor:
        """Noise (B, 4, h, w) given the structure features of `structure`; see `forward` for the rest.

        `prompt_embeds` may hold m B rows, m texts for each latent in turn: the noise has as many then.
        """
        texts, pooled = split_pooled(self.unet, prompt_embeds)
        residuals, mid = self.control(sample, timestep, texts, image_embeds, features, conditioning_scale, pooled)
        return self.denoise(sample, timestep, texts, image_embeds, residuals, mid, pooled)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        prompt_embeds: Tensor,
        image_embeds: Tensor,
        lq: Tensor,
        conditioning_scale: float = 1.0,
    ) -> ControlledUNetOutput:
        """Predict what the network is trained for (noise, velocity or sample), and the clean image at several scales.

        Args:
            sample: (B, 4, h, w) noisy latent.
            timestep: (B,) or scalar, 0 ... 999.
            prompt_embeds: (B, 75 m + 2, D) of the captions; for Stable Diffusion XL one more row, see `split_pooled`.
            image_embeds: (B, L, D) refined tokens of the image encoder.
            lq: (B, 3, H, W) in [0, 1], RGB, at the output's size: 8 h x 8 w for Stable Diffusion.
            conditioning_scale: weight of the ControlNet's residuals.
        """
        features, images = self.structure(lq)
        noise = self.predict(sample, timestep, prompt_embeds, image_embeds, features, conditioning_scale)
        return ControlledUNetOutput(noise, images)

    def trainable(self) -> dict[str, ModelMixin]:
        """Every part that is trained, by name: what the optimizer and the checkpoint hold."""
        parts = {name: part for name, part in self.named_children() if isinstance(part, ModelMixin)}
        if not self.train_unet and not lora_layers(self.unet):
            del parts["unet"]
        return parts

    def enable_gradient_checkpointing(self) -> None:
        """Recompute resnets and attention in the backward pass, in every part: less memory, a third more time."""
        for part in (self.unet, self.controlnet, self.unet_image, self.controlnet_image, self.unet_pixel):
            if isinstance(part, ModelMixin):
                part.enable_gradient_checkpointing()

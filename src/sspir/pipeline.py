"""From a low-quality image to a restored one: the only sampler loop there is."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional as F

from sspir.color import fix_colour
from sspir.models.attention_adapter import AttentionAdapter, NoAttention
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import channels_of, decode, encode, factor_of, upscale
from sspir.models.structure_processor import NoProcessor, StructureProcessor
from sspir.priors.text_encoder import encode_captions
from sspir.sampler import Sampler
from sspir.tiling import tiled

OnStep = Callable[[int, int, Tensor], None]


@dataclass
class Restored:
    """What restoring returns.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        structure: the Processor's images in [0, 1], largest first; empty where it predicts none.
        captions: the texts that steered.
    """

    images: Tensor
    structure: list[Tensor]
    captions: list[str]


class RestorationPipeline(DiffusionPipeline):
    """Restores images under three priors: caption, image embedding, structure.

    A diffusers pipeline in its own file format. A part that an ablation switched off is None.

    Args:
        vae: autoencoder of diffusers, or one with its calls.
        tokenizer: of the text encoder.
        text_encoder: CLIP text model: the explicit semantic prior.
        image_encoder: images in [0, 1] -> tokens: the implicit semantic prior.
        refine: tokens -> image embeddings.
        unet: Stable Diffusion's.
        controlnet: with the Processor's trunk as its conditioning embedding.
        scheduler: noise schedule of training.
        processor: RGB heads of the structure prior.
        unet_image: image cross-attention of the U-Net.
        controlnet_image: image cross-attention of the ControlNet.
        unet_pixel: pixel attention of the U-Net.
        sampler: default settings, the fields of `Sampler`.
        residual: None restores the latent itself. A number: restores the difference to the Processor's full-size
            image, which was multiplied by it in training.
        scale: default upscaling.
        captioner: name of the captioner it was trained with.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->refine->processor->controlnet->unet->vae"
    _optional_components = ["processor", "unet_image", "controlnet_image", "unet_pixel"]  # noqa: RUF012 (diffusers')

    def __init__(
        self,
        vae: Any,
        tokenizer: Any,
        text_encoder: Any,
        image_encoder: Any,
        refine: Any,
        unet: Any,
        controlnet: Any,
        scheduler: Any,
        processor: StructureProcessor | None = None,
        unet_image: AttentionAdapter | None = None,
        controlnet_image: AttentionAdapter | None = None,
        unet_pixel: AttentionAdapter | None = None,
        sampler: dict[str, Any] | None = None,
        residual: float | None = None,
        scale: int = 4,
        captioner: str = "none",
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            image_encoder=image_encoder,
            refine=refine,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            processor=processor,
            unet_image=unet_image,
            controlnet_image=controlnet_image,
            unet_pixel=unet_pixel,
        )
        self.register_to_config(sampler=sampler or {}, residual=residual, scale=scale, captioner=captioner)
        self.sampler = Sampler(**(sampler or {}))
        self.backbone = ControlledUNet(
            unet,
            controlnet,
            processor or NoProcessor(controlnet.config.conditioning_embedding_out_channels),
            unet_image or NoAttention(),
            controlnet_image or NoAttention(),
            unet_pixel or NoAttention(),
        )

    @classmethod
    def from_parts(cls, backbone: ControlledUNet, sampler: Sampler, **parts: Any) -> Self:
        """Compose from a backbone; `parts` are the other components and settings of the class."""
        held = {
            name: part for name, part in backbone.named_children() if not isinstance(part, NoAttention | NoProcessor)
        }
        return cls(sampler=asdict(sampler), **held, **parts)

    @torch.no_grad()
    def restore(
        self,
        lq: Tensor,
        captions: Sequence[str],
        size: tuple[int, int] | None = None,
        seeds: Sequence[int] | None = None,
        sampler: Sampler | None = None,
        on_step: OnStep | None = None,
    ) -> Restored:
        """Restore a batch of images of one size.

        Args:
            lq: (B, 3, h, w) in [0, 1], RGB.
            captions: one text per image; "" for none.
            size: (H, W) of the result; the default scale times (h, w).
            seeds: one per image: the same seed gives the same noise whatever the batch. Default: 0, 1, ...
            sampler: settings; the pipeline's own by default.
            on_step: called after each step with its number from 1, the number of steps and the latents (B, C, h, w).
        """
        settings = sampler or self.sampler
        height, width = size or (lq.shape[-2] * self.config.scale, lq.shape[-1] * self.config.scale)
        device = self._execution_device
        upscaled = upscale(lq.to(device, torch.float32), (height, width))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(lq))]
        captions = [f"{caption} {settings.caption_suffix}".strip() for caption in captions]

        prompt_embeds, image_embeds = self.semantics(upscaled, captions, settings)
        padded = self.pad(upscaled)
        features, images = self.backbone.structure(padded.to(self.controlnet.dtype))
        images = [(image.float() / 2 + 0.5).clamp(0, 1) for image in images]
        base = encode(self.vae, images[0]) if self.config.residual else 0.0
        known = torch.zeros_like(base) if self.config.residual else self.lq_latents(padded, settings, generators)
        latents = self.sample(known, features, prompt_embeds, image_embeds, settings, generators, on_step)
        latents = base + latents / (self.config.residual or 1.0)
        restored = decode(self.vae, latents)[..., :height, :width].clamp(0, 1)
        restored = fix_colour(restored, upscaled, settings.colour)
        return Restored(restored, [image[..., :height, :width] for image in images], list(captions))

    def semantics(self, upscaled: Tensor, captions: Sequence[str], settings: Sampler) -> tuple[Tensor, Tensor]:
        """Caption tokens and image tokens, the unguided half first where there is guidance."""
        negatives = [settings.negative_caption] * len(captions) if settings.guided else []
        prompt_embeds = encode_captions(self.tokenizer, self.text_encoder, [*negatives, *captions])
        tokens = self.image_encoder(upscaled.to(self.image_encoder.dtype))
        image_embeds = self.refine(tokens.to(self.refine.dtype))
        return prompt_embeds, image_embeds.repeat(2, 1, 1) if settings.guided else image_embeds

    def pad(self, image: Tensor) -> Tensor:
        """Grow (B, 3, H, W) to what autoencoder and Processor can divide, repeating the last row and column."""
        multiple = max(factor_of(self.vae), self.backbone.processor.multiple)
        height, width = image.shape[-2:]
        return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")

    def lq_latents(self, padded: Tensor, settings: Sampler, generators: list[torch.Generator]) -> Tensor:
        """Latents of the low-quality image where the loop starts from them; else only their shape."""
        if settings.start is not None:
            return encode(self.vae, padded, generators)
        factor = factor_of(self.vae)
        height, width = padded.shape[-2] // factor, padded.shape[-1] // factor
        return padded.new_zeros(len(padded), channels_of(self.vae), height, width)

    def sample(
        self,
        known: Tensor,
        features: Tensor,
        prompt_embeds: Tensor,
        image_embeds: Tensor,
        settings: Sampler,
        generators: list[torch.Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Denoise from the start to a clean latent.

        Args:
            known: (B, C, h, w) clean latents that `settings.start` adds noise to.
            features: (B, D, h, w) of the structure prior.
            prompt_embeds: (B, L, D), or (2 B, L, D) with guidance, the unguided half first.
            image_embeds: likewise.
            settings: of the loop.
            generators: one per image.
            on_step: see `restore`.
        """
        scheduler, timesteps = settings.build(self.scheduler)
        noise = torch.cat([_randn(known[:1].shape, generator, known) for generator in generators])
        if settings.start is None:
            latents = noise * scheduler.init_noise_sigma
        else:
            latents = scheduler.add_noise(known, noise, torch.tensor([settings.start], device=known.device))
        options = {"generator": generators} if "generator" in signature(scheduler.step).parameters else {}
        for number, timestep in enumerate(timesteps.to(known.device), start=1):
            scaled = scheduler.scale_model_input(latents, timestep)
            noise = self.predict(scaled, timestep, features, prompt_embeds, image_embeds, settings)
            latents = scheduler.step(noise, timestep, latents, **options, return_dict=False)[0]
            if on_step:
                on_step(number, len(timesteps), latents)
        return latents

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        features: Tensor,
        prompt_embeds: Tensor,
        image_embeds: Tensor,
        settings: Sampler,
    ) -> Tensor:
        """Guided prediction (B, C, h, w) of one step, in tiles where the latent is large."""
        halves = 2 if settings.guided else 1
        dtype = self.unet.dtype

        def denoise(tiles: list[Tensor]) -> Tensor:
            sample, local = tiles
            count = len(sample) // len(prompt_embeds)
            prompts, tokens = (embeds.repeat(count, 1, 1) for embeds in (prompt_embeds, image_embeds))
            scale = settings.conditioning_scale
            return self.backbone.predict(sample.to(dtype), timestep, prompts, tokens, local, scale).float()

        images = [image.repeat(halves, 1, 1, 1) for image in (latents, features)]
        overlap = min(settings.overlap, min(latents.shape[-2:]) // 2)
        noise = tiled(denoise, images, settings.tile, overlap, settings.tile_batch)
        if settings.guided:
            unguided, guided = noise.chunk(2)
            noise = unguided + settings.guidance * (guided - unguided)
        return noise


def _randn(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator).to(like)

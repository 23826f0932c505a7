"""From a low-quality image to a restored one: the only sampler loop there is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sspir.color import fix_colour
from sspir.errors import UserError
from sspir.image_io import read_image
from sspir.models.attention_adapter import AttentionAdapter, NoAttention
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import channels_of, decode, encode, factor_of, upscale
from sspir.models.structure_processor import NoProcessor, StructureProcessor
from sspir.panel import to_pil
from sspir.priors.captioner import Captioner, NoCaption, Precomputed
from sspir.priors.measured_captioner import MeasuredCaptioner
from sspir.priors.text_encoder import encode_captions
from sspir.sampler import Sampler
from sspir.sampling import OnStep, Priors, sample

# Those that a saved pipeline can name, as they need no weights.
WEIGHTLESS = {kind.__name__: kind for kind in (NoCaption, Precomputed, MeasuredCaptioner)}
Photo = str | Path | Image.Image | np.ndarray | Tensor


@dataclass
class Restored:
    """What restoring returns.

    Attributes:
        images: (B, 3, H, W) in [0, 1]; from a call of the pipeline a list of pictures.
        structure: the Processor's images in [0, 1], largest first; empty where it predicts none.
        captions: the texts that steered.
    """

    images: Any
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
        captioner: class of the captioner it was trained with. One that needs weights is not loaded: set
            `pipeline.captioner` to use it.
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
        captioner: str = "NoCaption",
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
        self.captioner: Captioner = WEIGHTLESS.get(captioner, NoCaption)()
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
    def __call__(
        self,
        image: Photo | Sequence[Photo],
        caption: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        scale: float | None = None,
        output_type: str = "pil",
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> Restored:
        """Restore photos.

        Args:
            image: path, picture, (H, W, 3) uint8 array, (3, H, W) tensor in [0, 1], or a list of those.
            caption: what they show; None asks `self.captioner`.
            seed: of the noise; one for all, or one per image.
            scale: upscaling; the trained one by default.
            output_type: "pil" pictures, "pt" tensors (3, H, W) in [0, 1].
            on_step: called after each step with its number, the number of steps and the latents.
            changes: fields of `Sampler` to use instead of the pipeline's, such as steps=20 or guidance=5.5.

        Returns:
            The images as a list, and the captions that steered.

        Raises:
            UserError: a setting or an image is not understood.
        """
        photos = list(image) if isinstance(image, list | tuple) else [image]
        seeds = [seed] * len(photos) if isinstance(seed, int) else list(seed)
        captions = [caption] * len(photos) if caption is None or isinstance(caption, str) else list(caption)
        if not len(photos) == len(seeds) == len(captions):
            raise UserError(f"{len(photos)} images came with {len(captions)} captions and {len(seeds)} seeds.")
        settings = self.settings(**changes)
        results = []
        for photo, given, number in zip(photos, captions, seeds, strict=True):
            lq = to_tensor(photo).to(self._execution_device)
            height, width = (max(1, round(side * (scale or self.config.scale))) for side in lq.shape[-2:])
            text = self.captioner(upscale(lq, (height, width)), [""])[0] if given is None else given
            results.append(self.restore(lq, [text], (height, width), [number], settings, on_step))
        images = [result.images[0] for result in results]
        return Restored(
            [to_pil(picture) for picture in images] if output_type == "pil" else images,
            [result.structure[0][0] for result in results if result.structure],
            [result.captions[0] for result in results],
        )

    def settings(self, **changes: Any) -> Sampler:
        """The pipeline's sampler with some fields changed.

        Raises:
            UserError: a field is not known.
        """
        known = asdict(self.sampler)
        if unknown := changes.keys() - known.keys():
            raise UserError(f"Unknown setting {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        return replace(self.sampler, **changes)

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
        upscaled = upscale(lq.to(self._execution_device, torch.float32), (height, width))
        padded = self.pad(upscaled)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(lq))]
        captions = [f"{caption} {settings.caption_suffix}".strip() for caption in captions]

        features, images = self.backbone.structure(padded.to(self.controlnet.dtype))
        images = [(image.float() / 2 + 0.5).clamp(0, 1) for image in images]
        priors = Priors(*self.semantics(upscaled, captions, settings), features)
        known, base = self.start(padded, images, settings, generators)
        latents = sample(self.backbone, self.scheduler, settings, known, priors, generators, on_step)
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

    def start(
        self, padded: Tensor, images: list[Tensor], settings: Sampler, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor | float]:
        """Clean latents that the loop starts from, and the latent that its result is added to."""
        if self.config.residual:
            base = encode(self.vae, images[0])
            return torch.zeros_like(base), base
        if settings.start is not None:
            return encode(self.vae, padded, generators), 0.0
        factor = factor_of(self.vae)
        height, width = padded.shape[-2] // factor, padded.shape[-1] // factor
        return padded.new_zeros(len(padded), channels_of(self.vae), height, width), 0.0


def to_tensor(photo: Photo) -> Tensor:
    """A photo of any kind as (1, 3, H, W) in [0, 1]; see `RestorationPipeline.__call__`."""
    if isinstance(photo, str | Path):
        return read_image(photo).tensor()[None]
    if isinstance(photo, Image.Image):
        photo = np.array(photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
            raise UserError(f"An array must be (H, W, 3) of uint8, not {photo.shape} of {photo.dtype}.")
        photo = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    if photo.ndim != 3 or len(photo) != 3 or not photo.is_floating_point():
        raise UserError(f"A tensor must be (3, H, W) in [0, 1], not {tuple(photo.shape)} of {photo.dtype}.")
    return photo[None]

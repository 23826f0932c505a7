"""One batch of images restored: priors once, the sampler's loop, decoding, colours; large images region by region."""

from dataclasses import replace
from functools import cache, cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sspir.color import fix_colour, keep_grey, match_moments
from sspir.device import modules_of, replaying, sent, weights_of
from sspir.encoders.base import tokens_of
from sspir.encoders.text import encode_captions
from sspir.memory import capacity_bytes
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import channels_of, decode_latents, encode_latents, factor_of, upscale
from sspir.models.offload import dtype_of
from sspir.sampling.back_projection import back_project
from sspir.sampling.loop import OnStep, Priors, sample
from sspir.sampling.output import REPAIRED, BrokenError, RestorationOutput
from sspir.sampling.precision import autocast_of, halves_of, in_full, networks_of, plain
from sspir.sampling.preview import Colours
from sspir.sampling.regions import Span, Upscaler, noise_at, spans_of
from sspir.sampling.sampler import Sampler

_VAE_TILE = 64  # latent pixels: what Stable Diffusion was trained on
LARGEST_SEEN = 1024
"""Longest side, in pixels, to which an image larger than a region is reduced for captioner and image encoder."""


class Restoration:
    """Restores a batch, at once (`whole`) or region by region (`in_regions`); holds what the regions share.

    Args:
        pipeline: a `RestorationPipeline`.
        lq: (B, 3, h, w) in [0, 1].
        captions: B texts whose tokens have one length.
        size: (H, W) of the result.
        seeds: B.
        settings: of the loop.
        on_step: called after each step; with regions its number goes on from one to the next, and its latents and
            preview are those of the region at work.
        autocast: of the denoiser; all else is computed outside.
    """

    def __init__(
        self,
        pipeline: Any,
        lq: Tensor,
        captions: list[str],
        size: tuple[int, int],
        seeds: list[int],
        settings: Sampler,
        on_step: OnStep | None,
        autocast: torch.autocast,
    ) -> None:
        self.pipeline, self.backbone, self.vae = pipeline, pipeline.backbone, pipeline.vae
        self.lq, self.captions, self.size, self.seeds = lq, captions, size, seeds
        self.on_step, self.autocast = on_step, autocast
        self.warnings: list[str] = []
        self.multiple = max(factor_of(self.vae), self.backbone.processor.multiple)
        self.settings = self._tiled(settings) if settings.tile == "auto" else settings
        # A residual refers to the Processor's picture, which fidelity keeps instead of the noise of the photo
        self.residual_share = (1 - settings.fidelity) / pipeline.config.residual if pipeline.config.residual else 1.0
        self.drawn = 0.0 if pipeline.config.residual else settings.fidelity
        negatives = [settings.negative_caption] * len(captions) if settings.guided else []
        self.prompt_embeds = encode_captions(pipeline.tokenizer, pipeline.text_encoder, [*negatives, *captions])
        self.vae_tile = self._vae_tile()

    @cached_property
    def _room(self) -> float:
        """Bytes for one image's maps: half of what the device has beside the weights.

        Neither what is free at the moment nor the batch counts: the pictures would depend on them.
        """
        weights = {id(each): each.nbytes for each in weights_of(modules_of(networks_of(self.pipeline)))}
        return max(0, capacity_bytes(self.lq.device) - sum(weights.values())) / 2

    def _tiled(self, settings: Sampler) -> Sampler:
        """The settings with tiles of the largest of the usual sides, in latent pixels, that there is room for."""
        # Measured: the loop holds about 40 maps of the widest level per latent pixel, twice under guidance
        width, halves = self.backbone.unet.config.block_out_channels[0], 2 if settings.guided else 1
        pixels = self._room / (40 * 4 * width * halves * settings.tile_batch)
        side = next((side for side in (96, 64, 48) if side**2 <= pixels), 48)
        if side < 96 and max(self.size) > side * factor_of(self.vae):
            self.warnings.append(f"denoised in tiles of {side}, as the device's memory is too small for 96")
        overlap, together = min(settings.overlap, side * 2 // 3), max(1, settings.tile_batch // len(self.lq))
        return replace(settings, tile=side, overlap=overlap, tile_batch=together)

    def _vae_tile(self) -> int | None:
        """Side of the tiles of a large autoencoder, in latent pixels, where there is no room for its maps."""
        widths = self.vae.config.get("block_out_channels")
        if not widths:
            return None
        # The decoder's last level: about ten maps of its width
        needed = 10 * 4 * widths[0] * min(self.size[0] * self.size[1], (self.settings.region or 2**31) ** 2)
        if needed <= self._room:
            return None
        self.warnings.append(f"decoded in tiles of {_VAE_TILE}, as the device's memory is too small for the whole")
        return _VAE_TILE

    def embed(self, images: Tensor) -> Tensor:
        """Image embeddings (B, L, D) of images (B, 3, H, W) in [0, 1]."""
        with plain(images.device):  # tiles ask for theirs from within the loop
            encoder, refine = self.pipeline.image_encoder, self.pipeline.refine
            tokens = tokens_of(encoder, images.to(dtype_of(encoder)))
            refined: Tensor = refine(tokens.to(dtype_of(refine)))
        return refined.to(dtype_of(self.backbone.unet))

    def whole(self) -> RestorationOutput:
        """Restore all at once; returns the images, and the Processor's."""
        upscaled = upscale(self.lq, self.size)
        images, structure = self.part(upscaled, self.embed(upscaled), self.on_step)
        images = fix_colour(images, upscaled, self.settings.colour, self.settings.colour_strength)
        return RestorationOutput(back_project(self.lq, images, self.drawn), structure, self.captions, self.warnings)

    def in_regions(self) -> RestorationOutput:
        """Restore region by region; returns no images of the Processor, which would double the memory."""
        height, width = self.size
        # Smaller than what is still done at once: the canvas needs its share of the memory
        side = (self.settings.region or max(self.size)) * 5 // 8
        parts = [spans_of(length, side, side // 8, self.multiple) for length in self.size]
        upscaler, count = Upscaler(self.lq, self.size), len(parts[0]) * len(parts[1])
        shrink = min(1.0, LARGEST_SEEN / max(self.size))
        tokens = self.embed(upscale(self.lq, (max(1, round(height * shrink)), max(1, round(width * shrink)))))
        canvas = self.lq.new_zeros(len(self.lq), 3, height, width)
        for number, (rows, columns) in enumerate(product(*parts)):
            upscaled = upscaler(rows, columns)
            image, _ = self.part(upscaled, tokens, self._counted(number, count), self._noise(rows, columns))
            if self.settings.colour != "adain":  # whose statistics are those of the whole
                image = fix_colour(image, upscaled, self.settings.colour, self.settings.colour_strength)
            image *= sent((rows.weights()[:, None] * columns.weights()).to(image.dtype), image.device)
            canvas[..., rows.start : rows.stop, columns.start : columns.stop] += image
        if self.settings.colour == "adain":
            match_moments(canvas, self.lq, self.settings.colour_strength)
        return RestorationOutput(back_project(self.lq, canvas, self.drawn), [], self.captions, self.warnings)

    def _counted(self, number: int, count: int) -> OnStep | None:
        on_step = self.on_step
        if on_step is None:
            return None
        return lambda step: on_step(step._replace(number=number * step.total + step.number, total=count * step.total))

    def _noise(self, rows: Span, columns: Span) -> Tensor:
        factor, channels = factor_of(self.vae), channels_of(self.vae)
        top, left = rows.start // factor, columns.start // factor
        height, width = (
            -(-(span.stop - span.start) // self.multiple) * self.multiple // factor for span in (rows, columns)
        )
        return torch.cat([noise_at(seed, channels, top, left, height, width) for seed in self.seeds]).to(self.lq)

    def part(
        self, upscaled: Tensor, tokens: Tensor, on_step: OnStep | None, noise: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Restore an image or a region of it.

        Args:
            upscaled: (B, 3, H, W) in [0, 1].
            tokens: (B, L, D) image embeddings of the whole.
            on_step: see the class.
            noise: (B, C, h, w) to start with; None draws it from the seeds.

        Returns:
            Images (B, 3, H, W) in [0, 1], and the Processor's, largest first.
        """
        height, width = upscaled.shape[-2:]
        padded = padded_to(self.multiple, upscaled)
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        features, images = structure_of(self.backbone, padded)
        dtype = dtype_of(self.backbone.unet)
        priors = Priors(self.prompt_embeds.to(dtype), tokens, features.to(dtype))
        if self.settings.tile_tokens == "tile":
            priors = priors._replace(image=padded, embed=self.embed)
        known, base = self._start(padded, images, generators)
        schedule = self.pipeline.scheduler

        @cache
        def colours() -> Colours:
            if isinstance(base, Tensor):
                return Colours(base, images[0])
            started = self.settings.start is not None
            return Colours(known if started else encode_latents(self.vae, padded, tile=self.vae_tile), padded)

        def show(latents: Tensor) -> Tensor:
            rows, columns = (-(-side // factor_of(self.vae)) for side in (height, width))
            with plain(latents.device):
                return colours()(base + latents * self.residual_share)[..., :rows, :columns]

        with self.autocast:
            latents = sample(
                self.backbone, schedule, self.settings, known, priors, generators, on_step, noise, show,
                self.pipeline.config.noised,
            )  # fmt: skip
        restored = decode_latents(self.vae, base + latents * self.residual_share, self.vae_tile)
        return restored[..., :height, :width].clamp(0, 1), [image[..., :height, :width] for image in images]

    def _start(
        self, padded: Tensor, images: list[Tensor], generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor | float]:
        """Clean latents that the loop starts from, and the latent that its result is added to."""
        if self.pipeline.config.residual:
            base = encode_latents(self.vae, images[0], tile=self.vae_tile)
            return torch.zeros_like(base), base
        if self.settings.start is not None:
            return encode_latents(self.vae, padded, generators, self.vae_tile), 0.0
        factor = factor_of(self.vae)
        height, width = padded.shape[-2] // factor, padded.shape[-1] // factor
        return padded.new_zeros(len(padded), channels_of(self.vae), height, width), 0.0


def padded_to(multiple: int, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) continued by their last rows and columns to sides that are multiples."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def structure_of(backbone: ControlledUNet, padded: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Structure features (B, C, h, w) of images (B, 3, H, W) in [0, 1], and the Processor's images in [0, 1]."""
    embedding = backbone.controlnet.controlnet_cond_embedding
    features, images = backbone.structure(padded.to(next(embedding.parameters(), padded).dtype))
    return features, [(image.float() / 2 + 0.5).clamp(0, 1) for image in images]


def restore_batch(
    pipeline: Any,
    lq: Tensor,
    captions: list[str],
    size: tuple[int, int],
    seeds: list[int],
    settings: Sampler,
    on_step: OnStep | None = None,
) -> RestorationOutput:
    """Restore a batch; arguments as of `Restoration`. Within autocast the denoiser alone takes part in it, as a type
    given to `in_dtype` is its alone. What comes out broken in half precision is done again in full. A result that is
    to be smaller than the photo is restored at the photo's size, and reduced: its pixels have seen all of the photo.
    A photo without colour comes out without.

    Raises:
        BrokenError: the result holds NaN or infinity, or is black, in full precision too.
    """
    height, width = lq.shape[-2:]
    if size[0] < height or size[1] < width:
        own = max(size[0], height), max(size[1], width)
        done = restore_batch(pipeline, lq, captions, own, seeds, settings, on_step)
        done.images = upscale(done.images, size)
        return done

    def restored(autocast: torch.autocast) -> RestorationOutput:
        with plain(lq.device):
            restoration = Restoration(pipeline, lq, captions, size, seeds, settings, on_step, autocast)
            in_regions = settings.region and max(size) > settings.region
            made = restoration.in_regions() if in_regions else restoration.whole()
            made.images = keep_grey(made.images, lq)
            return made

    with replaying(pipeline.replays, networks_of(pipeline)):
        done = restored(autocast_of(lq.device))
    if not _broken(done.images, lq):
        return done
    if len(lq) > 1:  # or what is sound would be computed in another precision than alone
        alone = [
            restore_batch(pipeline, lq[[n]], [captions[n]], size, [seeds[n]], settings, on_step) for n in range(len(lq))
        ]
        return RestorationOutput.joined(alone, range(len(lq)))
    if (halves := halves_of(pipeline)) or torch.is_autocast_enabled(lq.device.type):
        with in_full(halves):
            done = restored(plain(lq.device))
        done.warnings.append(REPAIRED)
        done.repaired.append(0)
    if _broken(done.images, lq):
        raise BrokenError(done)
    return done


def _broken(images: Tensor, lq: Tensor) -> bool:
    """Whether any image holds NaN or infinity (which survive every clamp), or is black while its original is not."""
    totals, given = images.sum(dim=(1, 2, 3)), lq.mean(dim=(1, 2, 3))
    return not bool(torch.isfinite(totals).all()) or bool(((totals == 0) & (given > 0.01)).any())

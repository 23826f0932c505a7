"""The only sampler loop there is: from a start to a clean latent under the three priors."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from itertools import count
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from sspir.device import sent
from sspir.errors import UserError
from sspir.models.attention_processor import cpu_attention
from sspir.models.blocks import Prompt, split_pooled
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.prediction import pred_original_sample
from sspir.models.tiling import tiled
from sspir.sampling.sampler import Sampler


class Step(NamedTuple):
    """State of the loop after a denoising step.

    Attributes:
        number: of the step, from 1.
        total: number of steps.
        latents: (B, C, h, w), still noisy.
        timestep: scalar, on the CPU: the timestep that the network was called at.
        preview: a function that returns the result foreseen at this step, (B, 3, h, w) in [0, 1], rough and at the
            latents' size; it costs less than a thousandth of decoding.
    """

    number: int
    total: int
    latents: Tensor
    timestep: Tensor
    preview: Callable[[], Tensor]


OnStep = Callable[[Step], Tensor | None]
"""Called after each step; latents that it returns, of the same shape, take the place of the step's."""


class Priors(NamedTuple):
    """The three priors of B images, computed once and used at every step.

    Attributes:
        prompt_embeds: (B, L, D) of the captions; with guidance (2 B, L, D), those of the negative caption first.
        image_embeds: (B, L, D), the same for both halves of guidance, which acts on the text alone.
        features: what `ControlledUNet.structure` found: tiles are cut from it at the places of the latents'.
        image: (B, 3, H, W) in [0, 1], of which each tile gets tokens of its own where `embed` is given.
        embed: images (B, 3, H, W) -> image embeddings (B, L, D); None: tiles share those of the image.
    """

    prompt_embeds: Tensor
    image_embeds: Tensor
    features: Tensor
    image: Tensor | None = None
    embed: Callable[[Tensor], Tensor] | None = None


@torch.no_grad()
def sample(
    backbone: ControlledUNet,
    schedule: DDPMScheduler,
    settings: Sampler,
    known: Tensor,
    priors: Priors,
    generators: Sequence[torch.Generator],
    on_step: OnStep | None = None,
    noise: Tensor | None = None,
    show: Callable[[Tensor], Tensor] = lambda latents: latents,
    noised: bool = True,
) -> Tensor:
    """Denoise from the start to a clean latent.

    Args:
        backbone: the denoiser.
        schedule: the noise schedule of training.
        settings: of the loop.
        known: (B, C, h, w) clean latents to which `settings.start` adds noise; otherwise only their shape counts.
        priors: of the images.
        generators: one per image, so that an image's noise does not depend on its batch.
        on_step: called after each step, see `OnStep`.
        noise: (B, C, h, w) to start with; drawn from the generators by default.
        show: predicted clean latents (B, C, h, w) -> what `Step.preview` returns.
        noised: False starts with `known` as it is.

    Returns:
        (B, C, h, w).
    """
    scheduler, timesteps = settings.build(schedule)
    if noise is None:
        noise = torch.cat([_randn(known[:1].shape, generator, known) for generator in generators])
    if settings.start is None:
        latents = noise * scheduler.init_noise_sigma
    elif not noised:
        latents = known
    else:
        start = timesteps[:1] if settings.respace else torch.tensor([settings.start])
        latents = scheduler.add_noise(known, noise, sent(start, known.device))
    takes_generator = "generator" in signature(scheduler.step).parameters
    options = {"generator": list(generators)} if takes_generator else {}
    predictor = Predictor(backbone, settings, priors)
    with cpu_attention(backbone, known.device):
        for number, timestep in enumerate(timesteps, start=1):  # on the CPU, as every scheduler keeps its own
            scaled = scheduler.scale_model_input(latents, timestep)
            predicted = predict(predictor, scaled, timestep)
            latents = scheduler.step(predicted, timestep, latents, **options, return_dict=False)[0]
            if on_step:
                preview = partial(_preview, show, schedule, scaled, predicted, timestep)
                latents = _replaced(latents, on_step(Step(number, len(timesteps), latents, timestep, preview)))
    return latents


def _replaced(latents: Tensor, changed: Tensor | None) -> Tensor:
    if not isinstance(changed, Tensor):  # a lambda returns whatever its call does
        return latents
    if changed.shape != latents.shape:
        raise UserError(f"A callback returned latents {tuple(changed.shape)}; return {tuple(latents.shape)}.")
    return changed.to(latents)


def _preview(
    show: Callable[[Tensor], Tensor], schedule: DDPMScheduler, noisy: Tensor, predicted: Tensor, timestep: Tensor
) -> Tensor:
    return show(pred_original_sample(schedule, noisy, predicted, timestep))


class Predictor:
    """The network under the priors of some images, which do not change from step to step.

    Args:
        backbone: the denoiser.
        settings: of the loop.
        priors: of B images.
    """

    def __init__(self, backbone: ControlledUNet, settings: Sampler, priors: Priors) -> None:
        self.backbone = backbone
        self.settings = settings
        self.priors = priors
        # Handed in as the same tensors at every step, so that their keys and values are computed once.
        self._repeated: dict[tuple[int, int], tuple[Prompt, Tensor]] = {}
        self._of_tiles: dict[int, Tensor] = {}

    def embeds(self, tiles: int, halves: int) -> tuple[Prompt, Tensor]:
        """Caption and image tokens for some tiles of each image: (halves tiles B, L, D) and (tiles B, L, D)."""
        if (tiles, halves) not in self._repeated:
            texts = self.priors.prompt_embeds.chunk(2 if self.settings.guided else 1)[-halves:]
            prompts = split_pooled(self.backbone.unet, torch.cat([text.repeat(tiles, 1, 1) for text in texts]))
            self._repeated[tiles, halves] = prompts, self.priors.image_embeds.repeat(tiles, 1, 1)
        return self._repeated[tiles, halves]

    def tokens_of(self, number: int, image: Tensor) -> Tensor:
        """Image tokens of the tiles of the `number`-th call of a step, computed at the first step."""
        if number not in self._of_tiles:
            assert self.priors.embed is not None  # or no image would have been cut into tiles
            self._of_tiles[number] = self.priors.embed(image)
        return self._of_tiles[number]

    def __call__(self, latents: Tensor, timestep: Tensor) -> list[Tensor]:
        """Predictions (B, C, h, w) of one step: without and with caption where guidance acts, else with it.

        Args:
            latents: (B, C, h, w); large ones are done in tiles.
            timestep: scalar, on the CPU.
        """
        settings, images = self.settings, len(latents)
        halves = 2 if settings.guides(float(timestep)) else 1
        seen = sent(timestep, latents.device)
        numbers = count()

        def denoise(tiles: list[Tensor]) -> Tensor:
            sample, features, *image = tiles
            prompts, tokens = self.embeds(len(sample) // images, halves)
            if image:
                tokens = self.tokens_of(next(numbers), image[0])
            sample = sample.to(features.dtype)
            scale = settings.conditioning_scale
            predicted = self.backbone.predict(sample, seen, prompts, tokens, features, scale).float()
            return torch.cat(predicted.chunk(halves), dim=1)

        side = max(latents.shape[-2:])
        tile = settings.tile if isinstance(settings.tile, int) else side
        cut = [latents, self.priors.features]
        if self.priors.embed is not None and self.priors.image is not None and side > tile:
            cut.append(self.priors.image)
        predicted = tiled(denoise, cut, tile, min(settings.overlap, tile - 1), settings.tile_batch)
        return list(predicted.chunk(halves, dim=1))


def predict(predictor: Predictor, latents: Tensor, timestep: Tensor) -> Tensor:
    """Prediction (B, C, h, w) of one step for latents (B, C, h, w), under classifier-free guidance where it acts."""
    settings = predictor.settings
    *unguided, conditional = predictor(latents, timestep)
    if not unguided:
        return conditional
    guided = unguided[0] + settings.guidance * (conditional - unguided[0])
    if not settings.guidance_rescale:
        return guided
    spread, wanted = (part.std(dim=(1, 2, 3), keepdim=True) for part in (guided, conditional))
    return guided * torch.lerp(torch.ones_like(spread), wanted / spread, settings.guidance_rescale)


def _randn(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return sent(torch.randn(shape, generator=generator).to(like.dtype), like.device)

"""The only sampler loop there is: from a start to a clean latent under the three priors."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from sspir.models.controlled_unet import ControlledUNet
from sspir.sampler import Sampler
from sspir.tiling import tiled

OnStep = Callable[[int, int, Tensor], None]


class Priors(NamedTuple):
    """What steers the denoising of B images; computed once, used at every step.

    Attributes:
        prompt_embeds: (B, L, D) of the captions; with guidance (2 B, L, D), those of the negative caption first.
        image_embeds: (B, L, D); with guidance repeated to (2 B, L, D), as guidance acts on the text alone.
        features: (B, C, h, w) of the structure prior, at latent size.
    """

    prompt_embeds: Tensor
    image_embeds: Tensor
    features: Tensor


def sample(
    backbone: ControlledUNet,
    schedule: DDPMScheduler,
    settings: Sampler,
    known: Tensor,
    priors: Priors,
    generators: Sequence[torch.Generator],
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoise from the start to a clean latent.

    Args:
        backbone: the denoiser.
        schedule: the noise schedule of training.
        settings: of the loop.
        known: (B, C, h, w) clean latents to which `settings.start` adds noise; otherwise only their shape counts.
        priors: of the images.
        generators: one per image, so that an image's noise does not depend on its batch.
        on_step: called after each step with its number from 1, the number of steps, and the latents (B, C, h, w).

    Returns:
        (B, C, h, w).
    """
    scheduler, timesteps = settings.build(schedule)
    noise = torch.cat([_randn(known[:1].shape, generator, known) for generator in generators])
    if settings.start is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(known, noise, torch.tensor([settings.start], device=known.device))
    takes_generator = "generator" in signature(scheduler.step).parameters
    options = {"generator": list(generators)} if takes_generator else {}
    for number, timestep in enumerate(timesteps.to(known.device), start=1):
        scaled = scheduler.scale_model_input(latents, timestep)
        predicted = predict(backbone, settings, scaled, timestep, priors)
        latents = scheduler.step(predicted, timestep, latents, **options, return_dict=False)[0]
        if on_step:
            on_step(number, len(timesteps), latents)
    return latents


def predict(backbone: ControlledUNet, settings: Sampler, latents: Tensor, timestep: Tensor, priors: Priors) -> Tensor:
    """Guided prediction (B, C, h, w) of one step, in tiles where the latent (B, C, h, w) is large."""

    def denoise(tiles: list[Tensor]) -> Tensor:
        sample, features = tiles
        count = len(sample) // len(priors.prompt_embeds)
        prompts, tokens = (embeds.repeat(count, 1, 1) for embeds in (priors.prompt_embeds, priors.image_embeds))
        sample = sample.to(features.dtype)
        return backbone.predict(sample, timestep, prompts, tokens, features, settings.conditioning_scale).float()

    halves = 2 if settings.guided else 1
    images = [image.repeat(halves, 1, 1, 1) for image in (latents, priors.features)]
    overlap = min(settings.overlap, min(latents.shape[-2:]) // 2)
    predicted = tiled(denoise, images, settings.tile, overlap, settings.tile_batch)
    if settings.guided:
        unguided, guided = predicted.chunk(2)
        predicted = unguided + settings.guidance * (guided - unguided)
    return predicted


def _randn(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator).to(like)

"""The paper's objective: predict the noise of a random timestep."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sspir.batch import Batch
from sspir.objectives.base import Objective, drawn, normal

Predict = Callable[[Tensor, Tensor], Tensor]


def denoising(module: Any, latents: Tensor, generators: Sequence[torch.Generator], predict: Predict) -> Tensor:
    """The loss of a network's prediction at random timesteps, a scalar.

    Args:
        module: the `RestorationModule`, for its noise schedule and its weighting of timesteps.
        latents: (B, C, h, w), clean.
        generators: one per image, of noise and timesteps.
        predict: noisy latents (B, C, h, w) and timesteps (B,) to what the schedule's prediction type says.
    """
    noise = normal(latents, generators)
    schedule, kind = module.noise_schedule, module.noise_schedule.config.prediction_type
    timesteps = drawn(0, schedule.config.num_train_timesteps, generators, latents.device)
    noisy = schedule.add_noise(latents, noise, timesteps)
    prediction = predict(noisy, timesteps)
    target = {"epsilon": noise, "sample": latents}.get(kind)
    if target is None:
        target = schedule.get_velocity(latents, noise, timesteps)
    kept = schedule.alphas_cumprod.to(latents.device)[timesteps]
    loss: Tensor = module.loss.noise(prediction, target, kept / (1 - kept), kind)
    return loss


class Diffusion(Objective):
    """Denoising at random timesteps (SSP-IR, equation 1), for a network that restores in many steps."""

    def losses(
        self, module: Any, batch: Batch, lq: Tensor, features: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """Loss "noise" of the network's prediction; arguments as of `Objective.losses`."""
        generators = module.generators(len(batch))
        prompt_embeds, tokens = module.semantics(batch, lq, generators)
        latents = module.latents(batch.hq, images, generators)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            made: Tensor = module.backbone.predict(noisy, timesteps, prompt_embeds, module.refine(tokens), features)
            return made

        return {"noise": denoising(module, latents, generators, predict)}

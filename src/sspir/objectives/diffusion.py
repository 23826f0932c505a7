"""The paper's objective: predict the noise of a random timestep."""

from typing import Any

import torch
from torch import Tensor

from sspir.batch import Batch
from sspir.device import sent
from sspir.objectives.base import Objective, normal


class Diffusion(Objective):
    """Denoising at random timesteps (SSP-IR, equation 1), for a network that restores in many steps."""

    def losses(
        self, module: Any, batch: Batch, lq: Tensor, features: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """Loss "noise" of the network's prediction; arguments as of `Objective.losses`."""
        generators = module.generators(len(batch))
        prompt_embeds, tokens = module.semantics(batch, lq, generators)
        latents = module.latents(batch.hq, images, generators)
        noise = normal(latents, generators)
        schedule, kind = module.noise_schedule, module.noise_schedule.config.prediction_type
        steps = schedule.config.num_train_timesteps
        drawn = torch.cat([torch.randint(steps, (1,), generator=each) for each in generators])
        timesteps = sent(drawn, latents.device)
        noisy = schedule.add_noise(latents, noise, timesteps)
        prediction = module.backbone.predict(noisy, timesteps, prompt_embeds, module.refine(tokens), features)
        target = {"epsilon": noise, "sample": latents}.get(kind)
        if target is None:
            target = schedule.get_velocity(latents, noise, timesteps)
        kept = schedule.alphas_cumprod.to(latents.device)[timesteps]
        return {"noise": module.loss.noise(prediction, target, kept / (1 - kept), kind)}

"""Consistency distillation: a student of one to four steps, which `sampler=lcm` then takes."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import LCMScheduler
from torch import Tensor, nn

from sspir.batch import Batch
from sspir.device import replaying, sent
from sspir.errors import UserError
from sspir.models.prediction import ddim_step, pred_original_sample
from sspir.numbers import COUNT, GUIDANCE, POSITIVE
from sspir.objectives.base import Objective, drawn, normal
from sspir.objectives.frozen import FrozenDenoiser, caption_embeds


class Consistency(Objective):
    """From every point of a path of the frozen denoiser the student comes to the same clean latents.

    As latent consistency models do (Luo et al. 2023): a step of DDIM by the denoiser that the training began with leads
    from one level of noise to the next; what the student makes of both is brought together, in the parametrisation of
    diffusers' `LCMScheduler`. Levels lie below the sampler's start. The target is the student itself without gradient,
    not an average of it (Song and Dhariwal 2023).

    Args:
        guidance: of the frozen denoiser; the student restores without.
        negative_caption: of guidance.
        levels: of noise, between nothing and the start. The sampler's steps are among them where their number divides
            this one.
        huber: distance from which a difference counts by its size, below by its square. By sizes, as Luo et al. have
            it, differences that are skewed push all levels the same way, which only the first level holds back: with
            the rates of Adam that train a small student it drifts, by squares far less (experiments/README.md).

    Raises:
        UserError: a number is out of range.
    """

    copies = True

    def __init__(
        self, guidance: float = 7.5, negative_caption: str = "", levels: int = 48, huber: float = 0.001
    ) -> None:
        self.guidance = GUIDANCE.require("objective.guidance", guidance)
        self.negative_caption = negative_caption
        self.levels = COUNT.require("objective.levels", levels)
        self.huber = POSITIVE.require("objective.huber", huber)
        self.frozen: FrozenDenoiser | None = None
        self._state: dict[str, Tensor] = {}

    def check(self, sampler: Any) -> None:
        """Refuse a sampler that is not the student's."""
        if sampler.scheduler != "LCMScheduler" or sampler.guided or sampler.start is None or not sampler.respace:
            raise UserError(
                "objective=consistency trains for LCM's steps from the sampler's start, without guidance: add "
                "sampler=lcm (or sampler.scheduler=LCMScheduler sampler.guidance=1 and a start)."
            )
        if self.levels > sampler.start:
            raise UserError(f"objective.levels: {self.levels} do not fit below start={sampler.start}; take fewer.")

    def prepare(self, module: Any) -> None:
        """Copy the denoiser."""
        self.frozen = FrozenDenoiser(module, priors=True)
        self.frozen.load_state_dict(self._state, strict=False)
        self._state = {}
        options, start = module.sampler.options, module.sampler.start
        self.solver = LCMScheduler(timestep_scaling=options.get("timestep_scaling", 10.0))  # for its boundary
        # Rounded as `Sampler` rounds its steps, down to -1: clean
        ends = [start - round((self.levels - level) * (start + 1) / self.levels) for level in range(self.levels + 1)]
        self.ends = torch.tensor(ends)

    def losses(
        self, module: Any, batch: Batch, lq: Tensor, features: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """Loss "consistency"; arguments as of `Objective.losses`."""
        assert self.frozen is not None  # `prepare` has made it
        generators, schedule = module.generators(len(batch)), module.noise_schedule
        prompt_embeds, tokens = module.semantics(batch, lq, generators)
        latents = module.latents(batch.hq, images, generators)
        noise = normal(latents, generators)
        level = drawn(1, self.levels + 1, generators, torch.device("cpu"))
        timesteps, earlier = (sent(self.ends[each], latents.device) for each in (level, level - 1))
        noisy = schedule.add_noise(latents, noise, timesteps)
        image_embeds = module.refine(tokens)

        def student(noisy: Tensor, timesteps: Tensor) -> Tensor:
            made = module.backbone.predict(noisy, timesteps, prompt_embeds, image_embeds, features)
            clean = pred_original_sample(schedule, noisy.float(), made.float(), timesteps)
            kept, taken = self.solver.get_scalings_for_boundary_condition_discrete(timesteps.view(-1, 1, 1, 1))
            return kept * noisy + taken * clean

        with torch.no_grad(), replaying(None, ()):
            seen = self.frozen.see(lq, tokens)
            clean = self.frozen.clean(noisy, timesteps, prompt_embeds, seen)
            if self.guidance != 1:
                without = self.frozen.clean(
                    noisy, timesteps, caption_embeds(module, self.negative_caption, prompt_embeds), seen
                )
                clean = without + self.guidance * (clean - without)
            less = ddim_step(schedule, noisy.float(), clean, timesteps, earlier)
            target = student(less.to(noisy.dtype), earlier.clamp(min=0))
            target = torch.where((earlier < 0).view(-1, 1, 1, 1), less, target)
        error = student(noisy, timesteps) - target
        return {"consistency": ((error.square() + self.huber**2).sqrt() - self.huber).mean()}

    def networks(self) -> Iterator[nn.Module]:
        """The frozen denoiser."""
        if self.frozen:
            yield self.frozen

    def state_dict(self) -> dict[str, Any]:
        """The weights of the frozen denoiser that are nowhere else."""
        return {"frozen": self.frozen.own_weights()} if self.frozen else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same denoiser."""
        self._state = state.get("frozen", {})

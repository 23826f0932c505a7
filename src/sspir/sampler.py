"""How a photo is restored: solver, number of steps, starting point, guidance, and what follows."""

from dataclasses import dataclass, field
from typing import Any

import diffusers
from torch import Tensor

from sspir.errors import UserError


@dataclass(frozen=True)
class Sampler:
    """Settings of the restoring loop; a preset is one YAML of these.

    Args:
        scheduler: name of a diffusers scheduler class.
        options: its arguments, where they differ from the noise schedule's the model was trained with.
        steps: number of denoising steps.
        start: timestep at which the noised low-quality latent enters (SSP-IR's and SeeSR's "lr" start point); None
            starts from pure noise.
        respace: spread all steps below `start`, beginning exactly there. False spreads them over the whole schedule,
            skips those above, and still adds the noise of `start`, as the authors' code does.
        guidance: classifier-free guidance; 1 switches it off.
        negative_caption: what the unguided half is told.
        caption_suffix: appended to every caption.
        conditioning_scale: weight of the ControlNet's residuals.
        colour: "none", "adain", "wavelet" or "ycbcr": correction towards the colours of the low-quality image.
        tile: side of a latent tile; larger latents are denoised in tiles that are blended at every step.
        overlap: of neighbouring tiles, in latent pixels.
        tile_batch: tiles per call of the network.
    """

    scheduler: str = "DDPMScheduler"
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 50
    start: int | None = 999
    respace: bool = True
    guidance: float = 7.5
    negative_caption: str = ""
    caption_suffix: str = ""
    conditioning_scale: float = 1.0
    colour: str = "adain"
    tile: int = 96
    overlap: int = 32
    tile_batch: int = 4

    def __post_init__(self) -> None:
        if not hasattr(diffusers, self.scheduler):
            raise UserError(f"diffusers has no scheduler {self.scheduler!r}; try DDIMScheduler or DDPMScheduler.")
        if self.steps < 1:
            raise UserError(f"A restoration needs at least 1 step, not {self.steps}.")
        if not 0 <= self.overlap < self.tile:
            raise UserError(f"overlap={self.overlap} must be at least 0 and below tile={self.tile}.")

    @property
    def guided(self) -> bool:
        """Whether a step needs the unguided half too."""
        return self.guidance != 1

    def build(self, schedule: diffusers.DDPMScheduler) -> tuple[diffusers.SchedulerMixin, Tensor]:
        """Make the solver and its timesteps.

        Args:
            schedule: the noise schedule of training.

        Returns:
            A scheduler that is set up, and the timesteps (n,) to run, descending.
        """
        changes = dict(self.options)
        last = schedule.config.num_train_timesteps - 1
        if self.start is not None and not 0 < self.start <= last:
            raise UserError(f"start={self.start} must lie between 1 and {last}, or be null to start from noise.")
        if self.respace and self.start is not None:
            if self.steps > self.start:
                raise UserError(f"{self.steps} steps do not fit below start={self.start}; take fewer.")
            # A schedule that ends at `start` lets every solver space its steps below it.
            changes |= {
                "trained_betas": schedule.betas[: self.start + 1].tolist(),
                "num_train_timesteps": self.start + 1,
                "timestep_spacing": "trailing",
                "rescale_betas_zero_snr": False,
            }
        kind = getattr(diffusers, self.scheduler)
        known = set(kind._get_init_keys(kind))
        config = {key: value for key, value in {**schedule.config, **changes}.items() if key in known}
        scheduler = kind(**config)
        scheduler.set_timesteps(self.steps)
        timesteps = scheduler.timesteps
        if self.start is not None:
            skipped = int((timesteps > self.start).sum())
            if skipped and hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(skipped)
            timesteps = timesteps[skipped:]
        return scheduler, timesteps

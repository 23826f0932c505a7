"""Settings of restoring: solver, number of steps, starting point, guidance, colours, tiles."""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from typing import Any, ClassVar, get_args

import diffusers
import torch
from hydra.utils import get_object
from torch import Tensor

from sspir.color import ColourMode
from sspir.config import outside
from sspir.config.kinds import KINDS, fits
from sspir.errors import UserError
from sspir.numbers import COUNT, LIMIT, REAL, SHARE, STEPS

WITHOUT_MEMORY = (diffusers.DDPMScheduler, diffusers.DDIMScheduler, diffusers.LCMScheduler)
"""Solvers that begin at any noise of the training's schedule: they keep no earlier steps, and know no other noise."""
_TRIED: set[tuple[type, str]] = set()  # solvers, and what is set of them, that are known to make a step


@dataclass(frozen=True)
class Sampler:
    """Settings of the restoring loop; a preset is one YAML of these.

    Args:
        scheduler: name of a diffusers scheduler class, or the dotted path of one of your own in a folder of SSPIR_PATH,
            which is called as theirs are.
        options: its arguments, where they differ from the noise schedule's the model was trained with.
        steps: number of denoising steps.
        start: timestep at which the noised low-quality latent enters (SSP-IR's and SeeSR's "lr" start point); None
            starts from pure noise.
        respace: spread all steps below `start`, beginning exactly there. False spreads them over the whole schedule,
            skips those above, and still adds the noise of `start`, as the authors' code does; DDPM, DDIM and LCM can.
        guidance: classifier-free guidance; 1 switches it off.
        guidance_interval: timesteps (last, first), both included, at which guidance acts; a step outside costs half
            (Kynkäänniemi et al., "Applying guidance in a limited interval", 2024). None: at all.
        guidance_rescale: 0 for none to 1: takes the guided prediction's spread back to the unguided one's (Lin et al.,
            "Common diffusion noise schedules and sample steps are flawed", 2023, equations 15 and 16).
        negative_caption: what the unguided half is told.
        caption_suffix: appended to every caption.
        conditioning_scale: weight of the ControlNet's residuals.
        colour: "none", "adain", "wavelet" or "ycbcr": correction towards the colours of the low-quality image.
        colour_strength: 0 for none to 1 for the whole of it.
        fidelity: 0 restores as the settings say, 1 stays as close to what was photographed as it can; in between, the
            start sinks towards the last timestep, and the result is drawn towards the low-quality image; a model of
            residuals is drawn towards the Processor's picture instead.
        tile: side of a latent tile; larger latents are denoised in tiles that are blended at every step. "auto" takes
            the largest of 96, 64 and 48 that half of the device's memory beside the weights has room for: one device
            gives the same picture at every run, whatever else it does. None never tiles.
        overlap: of neighbouring tiles, in latent pixels; where these are "auto", two thirds of their side at most.
        tile_batch: tiles per call of the network.
        tile_tokens: whose image tokens a tile sees: the "image"'s, or those of the "tile" itself.
        region: longest side, in pixels, that is restored at once; larger images are done in overlapping regions, so
            that memory is bounded. None: never.
    """

    OF_THE_SOLVER: ClassVar = ("scheduler", "options", "steps", "respace")
    OF_MANY_STEPS: ClassVar = (
        *OF_THE_SOLVER, "start", "guidance", "guidance_interval", "guidance_rescale", "negative_caption",
    )  # fmt: skip
    """What means nothing to a model that restores in one step."""

    scheduler: str = "DDPMScheduler"
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 50
    start: int | None = 999
    respace: bool = True
    guidance: float = 7.5
    guidance_interval: tuple[int, int] | None = None
    guidance_rescale: float = 0.0
    negative_caption: str = ""
    caption_suffix: str = ""
    conditioning_scale: float = 1.0
    colour: ColourMode = "adain"
    colour_strength: float = 1.0
    fidelity: float = 0.0
    tile: int | str | None = 96
    overlap: int = 32
    tile_batch: int = 4
    tile_tokens: str = "image"
    region: int | None = 1024

    def __post_init__(self) -> None:
        if (kind := type(self)) is not Sampler:
            raise UserError(
                f"The sampler {kind.__module__}.{kind.__qualname__} would be lost, as models keep a sampler's settings "
                f"alone: name sspir.sampling.Sampler in its place, and by its scheduler what solves."
            )
        if not isinstance(self.options, Mapping):
            raise UserError(f"sampler.options={self.options!r} must be arguments of the scheduler, or {{}} for none.")
        object.__setattr__(self, "options", dict(self.options))  # Hydra hands in mappings of its own
        if self.guidance_interval is not None:
            object.__setattr__(self, "guidance_interval", _interval(self.guidance_interval))
        for name in ("negative_caption", "caption_suffix"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name}={getattr(self, name)!r} must be one text, for all images.")
        _solver(self.scheduler)
        STEPS.require("steps", self.steps)
        if self.start is not None:
            COUNT.require("start", self.start)
        for name in ("guidance", "conditioning_scale"):
            REAL.require(name, getattr(self, name))
        if self.colour not in get_args(ColourMode):
            raise UserError(f"{self.colour!r} is no colour fix; choose one of {', '.join(get_args(ColourMode))}.")
        for name in ("guidance_rescale", "colour_strength", "fidelity"):
            SHARE.require(name, getattr(self, name))
        self._check_tiles()

    def _check_tiles(self) -> None:
        if self.tile_tokens not in ("image", "tile"):
            raise UserError(f"tile_tokens={self.tile_tokens!r} is not known; choose image or tile.")
        for name, numbers in (("tile_batch", COUNT), ("overlap", LIMIT)):
            numbers.require(name, getattr(self, name))
        if self.tile not in (None, "auto") and not isinstance(self.tile, int):
            raise UserError(f"tile={self.tile!r} is no side of a tile; give a number, auto, or null for no tiles.")
        if isinstance(self.tile, int) and self.overlap >= self.tile:
            raise UserError(
                f"tile={self.tile} is not above what tiles share, overlap={self.overlap}; give a larger one."
            )
        if self.region is not None and COUNT.require("region", self.region) < 64:
            raise UserError(f"region={self.region} is too small for regions to overlap; give 64 pixels or more.")

    def changed(self, changes: Mapping[str, Any], fixed: Collection[str] = ()) -> "Sampler":
        """The settings with some fields changed.

        Args:
            changes: field -> value.
            fixed: fields of which a model knows one value alone.

        Raises:
            UserError: a field is not known, or is fixed and would change.
        """
        known = [each.name for each in fields(self)]
        if unknown := changes.keys() - set(known):
            raise UserError(f"Unknown setting {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        changed = replace(self, **changes)
        if lost := [name for name in changes if name in fixed and getattr(changed, name) != getattr(self, name)]:
            raise UserError(f"This model restores in one step and takes no {' or '.join(lost)}; leave it out.")
        return changed

    @property
    def guided(self) -> bool:
        """Whether a step needs the unguided half too."""
        return self.guidance != 1

    def faithful(self) -> "Sampler":
        """The settings with the start that `fidelity` asks for; it never lets a step act above the given start."""
        if not self.fidelity:
            return self
        start = max(1, round((999 if self.start is None else self.start) * (1 - self.fidelity)))
        return replace(self, start=start, steps=min(self.steps, start), respace=True)

    def low_memory(self) -> "Sampler":
        """The settings in the smallest pieces that still give a whole picture."""
        tile = 48 if not isinstance(self.tile, int) else min(self.tile, 48)
        return replace(self, tile=tile, overlap=min(self.overlap, tile // 4), tile_batch=1, region=384)

    def guides(self, timestep: float) -> bool:
        """Whether guidance acts at a timestep."""
        last, first = self.guidance_interval or (0, float("inf"))
        return self.guided and last <= timestep <= first

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
        kind = _solver(self.scheduler)
        if unknown := changes.keys() - set(kind._get_init_keys(kind)):
            raise UserError(f"{self.scheduler} has no option {', '.join(sorted(unknown))}; correct sampler.options.")
        if self.respace and self.start is not None:
            return self._respaced(kind, schedule, changes)
        scheduler = self._spaced(kind, {**schedule.config, **changes}, num_inference_steps=self.steps)
        if self.start is None:
            return scheduler, scheduler.timesteps
        if kind not in WITHOUT_MEMORY and scheduler.timesteps[0] != self.start:
            raise UserError(
                f"{self.scheduler} cannot begin at start={self.start} amid steps over the whole schedule "
                f"(respace=false); set respace=true, or scheduler=DDPMScheduler, DDIMScheduler or LCMScheduler."
            )
        timesteps = scheduler.timesteps[scheduler.timesteps <= self.start]
        if not len(timesteps):
            raise UserError(
                f"None of {self.steps} steps over the whole schedule lies below start={self.start}; take more steps, "
                f"a higher start, or respace=true."
            )
        return scheduler, timesteps

    def _respaced(
        self, kind: type, schedule: diffusers.DDPMScheduler, changes: dict[str, Any]
    ) -> tuple[diffusers.SchedulerMixin, Tensor]:
        """All steps below the start: a schedule that ends there lets every solver space its own."""
        start = self.start or 0
        if self.steps > start:
            raise UserError(f"{self.steps} steps do not fit below start={start}; take fewer.")
        changes |= {
            "trained_betas": schedule.betas[: start + 1].tolist(),
            "num_train_timesteps": start + 1,
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": False,
        }
        if kind is diffusers.DDIMScheduler and changes.get("set_alpha_to_one") and not changes.get("clip_sample"):
            # DDIM is DPM-Solver++ of first order (Lu et al. 2022). diffusers' DDIM goes down by a rounded stride, so
            # that noise is left unless the steps divide the schedule; this class ends a step where the next begins. It
            # cannot clip.
            kind = diffusers.DPMSolverMultistepScheduler
            changes["solver_order"] = 1
        custom: dict[str, Any] = {"num_inference_steps": self.steps}
        if issubclass(kind, diffusers.LCMScheduler):  # knows no spacing
            changes["original_inference_steps"] = start + 1
            custom = {"timesteps": [start - round(step * (start + 1) / self.steps) for step in range(self.steps)]}
        scheduler = self._spaced(kind, {**schedule.config, **changes}, **custom)
        return scheduler, scheduler.timesteps

    def _spaced(self, kind: type, config: dict[str, Any], **steps: Any) -> diffusers.SchedulerMixin:
        """A solver with the settings of a noise schedule that its constructor takes too, and its timesteps."""
        known = signature(kind).parameters
        options = f"sampler.options={self.options}"
        what, change = (options, "them") if self.options else ("this noise schedule", "sampler.scheduler")
        either = f"{options} or " if self.options else ""
        try:
            scheduler = kind(**{key: value for key, value in config.items() if key in known})
            what, change = "these steps", f"{either}sampler.steps"
            scheduler.set_timesteps(**steps)
            what, change = f"prediction_type={config['prediction_type']}", f"{either}sampler.scheduler"
            _try(scheduler, repr({**config, "trained_betas": None}))
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{kind.__name__} does not take {what} ({error}); change {change}.") from error
        if scheduler.timesteps[0] < scheduler.timesteps[-1]:
            raise UserError(f"{kind.__name__} goes up from the picture to noise; choose another sampler.scheduler.")
        return scheduler


def _solver(name: Any) -> type[Any]:
    """The class of a name: it takes the noise schedule of a training, and noises by it."""
    own = "." in str(name)
    kind = _own(name) if own else getattr(diffusers, str(name), None)
    if (
        isinstance(kind, type)
        and issubclass(kind, diffusers.SchedulerMixin)
        and hasattr(kind, "add_noise")
        and "trained_betas" in signature(kind).parameters
        and "noise_sampler_seed" not in signature(kind).parameters  # it would draw by no image's own seed
        and _steps_alone(kind)
    ):
        return kind
    if own:
        raise UserError(
            f"scheduler={name} is no class in a folder of {outside.VARIABLE} that is a diffusers.SchedulerMixin, takes "
            f"trained_betas, has add_noise, and makes a step of a model's output, a timestep and a sample; name its "
            f"folder there, and begin from a scheduler of diffusers."
        )
    raise UserError(
        f"diffusers has no scheduler {name!r} for the noise schedule of a training and a seed for each image; try "
        f"DDIMScheduler or DDPMScheduler."
    )


def _steps_alone(kind: type[Any]) -> bool:
    """Whether a step needs no more than the loop has for it, as one that fills a mask does."""
    try:
        signature(kind.step).bind("self", "model_output", "timestep", "sample", return_dict=False)
    except (AttributeError, TypeError):
        return False
    return True


def _own(path: str) -> Any:
    """What a path names, unless it is a stranger's: a saved model's settings come here too."""
    return get_object(path) if fits(path, KINDS["noise_schedule"]) else None


def _interval(given: Any) -> tuple[int, int]:
    """Timesteps (last, first) of guidance."""
    pair = [LIMIT.require("guidance_interval", each) for each in (given if isinstance(given, Sequence) else ())]
    if len(pair) != 2 or pair[0] > pair[1]:
        raise UserError(f"guidance_interval={given!r} must be the last timestep and the first, as [200,999].")
    return pair[0], pair[1]


def _try(scheduler: diffusers.SchedulerMixin, settings: str) -> None:
    """Make a step by a copy, once for each settings: some solvers look at what the model predicts only then."""
    if (type(scheduler), settings) in _TRIED:
        return
    trial, timestep, nothing = deepcopy(scheduler), scheduler.timesteps[0], torch.zeros(1, 1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        trial.step(nothing, timestep, trial.scale_model_input(nothing, timestep), return_dict=False)
    _TRIED.add((type(scheduler), settings))

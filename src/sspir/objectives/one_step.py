"""Restoring in one step: the denoiser as a generator, judged by the picture that it makes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sspir.batch import Batch
from sspir.device import sent
from sspir.errors import UserError
from sspir.models.latent import decode_latents, encode_latents
from sspir.models.prediction import pred_original_sample
from sspir.numbers import COUNT, LIMIT, WEIGHT
from sspir.objectives.adversary import Adversary
from sspir.objectives.base import Objective, normal
from sspir.objectives.picture_losses import SHIFT, PictureLoss

TARGETS = ("truth", "teacher", "both")
TAKEN = {"rgb", "frequency", "noise", "adversarial", "nothing", "total"}
"""Names that other losses of a step are logged by."""


class Term:
    """A part of the loss.

    Args:
        loss: of pictures to their targets.
        weight: of it.
        target: "truth", "teacher" or "both", half of each; None takes the objective's.
        steps: first step of the part, and the first without it; None for all.
        every: of these steps it counts at every so-many-th, with no more weight for that; None: at each. For what costs
            much, such as DISTS on a CPU. What is logged of it is of its last step.

    Raises:
        UserError: the target is not known, a number is out of range, or the loss is none of pictures.
    """

    def __init__(
        self,
        loss: PictureLoss,
        weight: float,
        target: str | None = None,
        steps: tuple[int, int] | None = None,
        every: int | None = None,
    ) -> None:
        if not isinstance(loss, PictureLoss):
            raise UserError(
                f"Term: {type(loss).__name__} is no loss of pictures; derive it from sspir.objectives.PictureLoss."
            )
        if target not in (None, *TARGETS):
            raise UserError(f"Term: target={target!r} is not known; choose {', '.join(TARGETS)}.")
        self.loss, self.weight, self.target = loss, WEIGHT.require("weight", weight), target
        if steps is not None and (isinstance(steps, int) or [type(step) for step in steps] != [int, int]):
            raise UserError(f"Term: steps={steps} must be its first step and the first without it, such as [0,1000].")
        self.first, self.end = (LIMIT.require("Term: steps", step) for step in steps or (0, LIMIT.most))
        if self.end <= self.first:
            raise UserError(f"Term: steps={steps} holds no step; give a first step and a later one, such as [0,1000].")
        self.every = COUNT.require("every", 1 if every is None else every)

    def acts(self, step: int) -> bool:
        """Whether the part counts at a step."""
        return self.weight != 0 and self.first <= step < self.end and (step - self.first) % self.every == 0


class Generated(NamedTuple):
    """What the step makes of a batch, and what it sees.

    Attributes:
        pictures: (B, 3, H, W) about [0, 1], not clamped.
        latents: (B, C, h, w) of them, as they are diffused: where residuals are, without the Processor's image.
        prompt_embeds: of the captions, some of them dropped.
        tokens: of the image encoder.
    """

    pictures: Tensor
    latents: Tensor
    prompt_embeds: Tensor
    tokens: Tensor


class OneStep(Objective):
    """The picture after a single step at the sampler's `start` is brought near its target.

    The step begins with the low-quality image's latent, or with nothing where residuals are restored, to which noise is
    added where it is asked for. What HYPIR (Lin et al. 2025) and OSEDiff (Wu et al. 2024) do is among its settings.

    Args:
        terms: parts of the loss by name; a part that is None is switched off.
        adversary: a discriminator that is trained along; None for none.
        teacher: low-quality images (B, 3, h, w) in [0, 1] -> pictures (B, 3, H, W), for batches that bring none; or
            the name of one.
        target: of terms that name none: "truth", "teacher" or "both".
        teacher_steps: steps at the start in which such terms have the teacher for their target.
        noised: add the noise of the start to the latent, as diffusion does.
        teachers: finds a teacher by its name.

    Raises:
        UserError: the target or the teacher is not known, no term is left, or a number is out of range.
    """

    one_step = True
    noised = False

    def __init__(
        self,
        terms: Mapping[str, Term | None],
        adversary: Adversary | None = None,
        teacher: str | Callable[[Tensor], Tensor] | None = None,
        target: str = "truth",
        teacher_steps: int = 0,
        noised: bool = False,
        teachers: Callable[[str], Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        if target not in TARGETS:
            raise UserError(f"OneStep: target={target!r} is not known; choose {', '.join(TARGETS)}.")
        if taken := TAKEN & terms.keys():
            raise UserError(f"OneStep: {', '.join(sorted(taken))} is the name of another loss; rename objective.terms.")
        self.terms = {name: term for name, term in terms.items() if term is not None and term.weight}
        if not self.terms:
            raise UserError("OneStep has no term with a weight; give objective.terms at least one.")
        for term in self.terms.values():
            term.loss.load()
        if isinstance(teacher, str):
            if teachers is None:
                raise UserError(f"OneStep: nothing finds the teacher {teacher!r} by its name; set objective.teachers.")
            teacher = teachers(teacher)
        self.adversary, self.teacher = adversary if adversary and adversary.weight else None, teacher
        self.target, self.teacher_steps = target, LIMIT.require("objective.teacher_steps", teacher_steps)
        self.noised = noised

    def check(self, sampler: Any) -> None:
        """Refuse a sampler that takes several steps, or guides."""
        if sampler.steps != 1 or sampler.guided or sampler.start is None or not sampler.respace:
            raise UserError(
                "The objective trains a single step from the sampler's start, without guidance: add sampler=one_step "
                "(or sampler.steps=1 sampler.guidance=1 and a start)."
            )

    def losses(
        self, module: Any, batch: Batch, lq: Tensor, features: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of the terms, and "adversarial"; the discriminator learns from the same pictures."""
        if self.teacher is None and batch.teacher is None and self._ever_taught():
            raise UserError(
                "The objective asks for a teacher's pictures, and there are none: name one by objective.teacher, or "
                "train on shards that `sspir teach` wrote."
            )
        for name, term in self.terms.items():
            term.loss.require_side(f"objective.terms.{name}", min(batch.size))
        if self.adversary:
            self.adversary.require_side(min(batch.size))
        generators = module.generators(len(batch))
        made = self.generate(module, batch, lq, features, images, generators)
        pictures = made.pictures
        acting = {name: term for name, term in self.terms.items() if term.acts(module.global_step)}
        targets = {name: self._targets(term, module.global_step) for name, term in acting.items()}
        sources = dict.fromkeys(source for few in targets.values() for source in few)
        plain = {"picture": pictures, **{source: self._source(source, batch) for source in sources}, "hq": batch.hq}
        drawn = torch.stack([torch.randint(SHIFT + 1, (2,), generator=each) for each in generators])
        shifts = sent(drawn, pictures.device)
        moved = {name: _moved(each, shifts) for name, each in plain.items()}
        losses = {}
        for name, term in acting.items():
            seen = moved if term.loss.shifted else plain
            parts = [term.loss(seen["picture"], seen[source]) for source in targets[name]]
            losses[name] = term.weight * torch.stack(parts).mean()
        if self.adversary:
            share = 1 / module.trainer.accumulate_grad_batches
            losses["adversarial"] = self.adversary.losses(moved["picture"], moved["hq"], module.global_step, share)
        if not acting:  # a step of nothing is a step
            losses["nothing"] = 0 * pictures.float().mean()
        return losses | self.of_latents(module, lq, made, generators)

    def of_latents(
        self, module: Any, lq: Tensor, made: Generated, generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Losses of what the step makes that need no picture, by name; arguments as of `losses` and `generate`."""
        return {}

    def generate(
        self,
        module: Any,
        batch: Batch,
        lq: Tensor,
        features: Tensor,
        images: list[Tensor],
        generators: list[torch.Generator],
    ) -> Generated:
        """What restoring would give.

        Args:
            module: see `losses`.
            batch: see `losses`.
            lq: see `losses`.
            features: see `losses`.
            images: see `losses`.
            generators: one per image, of captions that are dropped and of noise.
        """
        schedule, timestep = module.noise_schedule, torch.tensor(module.sampler.start)
        prompt_embeds, tokens = module.semantics(batch, lq, generators)
        known, base = self._begin(module, lq, images, generators)
        seen = sent(timestep, known.device)
        if self.noised:
            known = schedule.add_noise(known, normal(known, generators), seen[None])
        predicted = module.backbone.predict(known, seen, prompt_embeds, module.refine(tokens), features)
        latents = pred_original_sample(schedule, known.float(), predicted.float(), timestep)
        pictures = decode_latents(module.vae, base + latents / (module.residual or 1.0))
        return Generated(pictures, latents, prompt_embeds, tokens)

    @torch.no_grad()
    def _begin(
        self, module: Any, lq: Tensor, images: list[Tensor], generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor | float]:
        """The latent that the step is given, and the one that its result is added to."""
        if not module.residual:
            return encode_latents(module.vae, lq, generators), 0.0
        base = encode_latents(module.vae, (images[0].float() / 2 + 0.5).clamp(0, 1))
        return torch.zeros_like(base), base

    def _targets(self, term: Term, step: int) -> list[str]:
        target = term.target or ("teacher" if step < self.teacher_steps else self.target)
        return ["truth", "teacher"] if target == "both" else [target]

    def _ever_taught(self) -> bool:
        """Whether a teacher's pictures are a target at some step, this one or a later one."""
        free = any(term.target is None for term in self.terms.values())
        named = [term.target or self.target for term in self.terms.values()]
        return any(target != "truth" for target in named) or (free and self.teacher_steps > 0)

    def _source(self, name: str, batch: Batch) -> Tensor:
        if name == "truth":
            return batch.hq
        if batch.teacher is not None:
            return batch.teacher
        assert self.teacher is not None  # `losses` has seen to it
        with torch.no_grad():
            pictures = self.teacher(batch.lq)
        if pictures.shape != batch.hq.shape:
            small, made, true = (f"{each.shape[-1]} x {each.shape[-2]}" for each in (batch.lq, pictures, batch.hq))
            raise UserError(
                f"The teacher makes {made} pixels of {small}, and the truth has {true}; name one of its scale."
            )
        return pictures

    def networks(self) -> Iterator[nn.Module]:
        """Distances, the discriminator and the teacher."""
        for term in self.terms.values():
            yield from term.loss.networks()
        if self.adversary:
            yield self.adversary.network
        if isinstance(self.teacher, nn.Module):
            yield self.teacher

    def judged(self, pictures: Tensor) -> list[Tensor]:
        """Distances of pictures (B, 3, H, W) to themselves, and what the discriminator learns and says of them."""
        told = [term.loss(pictures, pictures.detach()) for term in self.terms.values() if [*term.loss.networks()]]
        return told + (self.adversary.rehearse(pictures) if self.adversary else [])

    def to(self, device: torch.device) -> None:
        """Move everything to the device of the training."""
        super().to(device)
        if self.adversary:
            self.adversary.to(device)

    def end_step(self) -> None:
        """Update the discriminator by what it has learned since the last update."""
        if self.adversary:
            self.adversary.end_step()

    def figures(self) -> dict[str, float | Tensor]:
        """The discriminator's loss, accuracy and gradient."""
        return self.adversary.figures if self.adversary else {}

    def state_dict(self) -> dict[str, Any]:
        """The discriminator's weights and optimizer."""
        return self.adversary.state_dict() if self.adversary else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the discriminator of a checkpoint."""
        if self.adversary and state:
            self.adversary.load_state_dict(state)


def _moved(pictures: Tensor, shifts: Tensor) -> Tensor:
    """Each picture (B, 3, H, W) without its first rows and columns, as many as its shift (B, 2) says; of one size."""
    for dim, shift in zip((2, 3), shifts.T, strict=True):
        places = shift[:, None] + torch.arange(pictures.shape[dim] - SHIFT, device=shift.device)
        shape = [len(pictures), 1, 1, 1]
        shape[dim] = -1
        size = list(pictures.shape)
        size[dim] = -1
        pictures = pictures.gather(dim, places.view(shape).expand(size))
    return pictures

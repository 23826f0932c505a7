"""Score distillation: a one-step network is led to where a denoiser finds pictures likely."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.errors import UserError
from sspir.models.lora import ATTENTION, add_lora, lora_switched_off
from sspir.numbers import GUIDANCE, LIMIT, POSITIVE
from sspir.objectives.adversary import Adversary
from sspir.objectives.base import drawn, normal
from sspir.objectives.companion import Companion, OptimizerFactory
from sspir.objectives.diffusion import denoising
from sspir.objectives.frozen import FrozenDenoiser, Seen, caption_embeds
from sspir.objectives.one_step import Generated, OneStep, Term
from sspir.seeding import sample_seed


class ScoreDistillation(OneStep):
    """Restoring in one step, judged by its pictures and by the denoiser that the training began with.

    Noise is added to what the step makes, and two estimates of what is clean are compared. "vsd" (OSEDiff, Wu et al.
    2024) compares the frozen denoiser, guided, with a copy that learns by LoRA what the step makes. "csd" (PiSA-SR, Sun
    et al. 2025) compares it with its own estimate under the negative caption: nothing is trained along. The result
    moves from the second estimate towards the first.

    Args:
        terms: see `OneStep`.
        distillation: weight of the difference.
        kind: "vsd" or "csd".
        guidance: of the frozen denoiser's first estimate; 1 does not guide.
        negative_caption: of guidance, and of the second estimate of "csd".
        timesteps: the first, and the last, at which estimates are compared.
        priors: see `FrozenDenoiser`; False is what both papers do.
        rank: of the LoRA.
        targets: layers of the LoRA, see `add_lora`.
        optimizer: makes the optimizer of the LoRA.
        clip: largest norm of the LoRA's gradient.
        adversary: see `OneStep`, as what follows.
        teacher: see there.
        target: see there.
        teacher_steps: see there.
        noised: see there.
        teachers: see there.

    Raises:
        UserError: the kind is not known, the timesteps are none, a number is out of range, or "csd" is not guided.
    """

    copies = True

    def __init__(
        self,
        terms: Mapping[str, Term | None],
        optimizer: OptimizerFactory,
        distillation: float = 1.0,
        kind: Literal["vsd", "csd"] = "vsd",
        guidance: float = 7.5,
        negative_caption: str = "",
        timesteps: Sequence[int] = (20, 980),
        priors: bool = True,
        rank: int = 4,
        targets: Sequence[str] = ATTENTION,
        clip: float = 1.0,
        adversary: Adversary | None = None,
        teacher: str | Callable[[Tensor], Tensor] | None = None,
        target: str = "truth",
        teacher_steps: int = 0,
        noised: bool = False,
        teachers: Callable[[str], Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        super().__init__(terms, adversary, teacher, target, teacher_steps, noised, teachers)
        if kind not in ("vsd", "csd"):
            raise UserError(f"ScoreDistillation: kind={kind!r} is not known; choose vsd or csd.")
        guidance = GUIDANCE.require("objective.guidance", guidance)
        if kind == "csd" and guidance == 1:
            raise UserError("ScoreDistillation: kind=csd compares with and without guidance; set guidance above 1.")
        given = timesteps if isinstance(timesteps, Sequence) else ()
        pair = [LIMIT.require("objective.timesteps", each) for each in given]
        if len(pair) != 2 or pair[0] > pair[1]:
            raise UserError(f"objective.timesteps: {timesteps} must be the first one and a later one, as [20,980].")
        self.first, self.last = pair
        self.weight = POSITIVE.require("objective.distillation", distillation)
        self.clip = POSITIVE.require("objective.clip", clip)
        self.kind, self.guidance, self.negative_caption = kind, guidance, negative_caption
        self.priors, self.rank, self.targets, self.optimizer = priors, rank, targets, optimizer
        self.frozen: FrozenDenoiser | None = None
        self.companion: Companion | None = None  # the LoRA's
        self._learned = False  # since the last update
        self._figures: dict[str, float | Tensor] = {}
        self._state: dict[str, Any] = {}

    def prepare(self, module: Any) -> None:
        """Copy the denoiser; on its copy goes the LoRA."""
        last = module.noise_schedule.config.num_train_timesteps - 1
        if self.last > last:
            raise UserError(f"objective.timesteps: {self.last} is behind the last one of this model, {last}.")
        self.frozen = FrozenDenoiser(module, self.priors)
        if self.kind == "vsd":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(sample_seed(module.seed, 0, "lora"))
                nets = {name: getattr(self.frozen.backbone, name) for name in ("unet", "controlnet")}
                add_lora(nets, self.rank, targets=self.targets)
            adapters = [
                weight for key, weight in self.frozen.requires_grad_(False).named_parameters() if "lora_" in key
            ]
            for weight in adapters:
                weight.requires_grad_(True)
            self.companion = Companion(adapters, self.optimizer, self.clip)
        if self._state:
            self.frozen.load_state_dict(self._state["frozen"], strict=False)
            if self.companion:
                self.companion.optimizer.load_state_dict(self._state["lora"]["optimizer"])
                self._figures = dict(self._state["lora"]["figures"])
            self._state = {}

    def begin(self, module: Any) -> None:
        """Begin, but not where small gradients would need a scaler."""
        super().begin(module)
        if self.kind == "vsd" and getattr(module.trainer, "precision", "") == "16-mixed":
            raise UserError(
                "objective.kind=vsd cannot learn in float16; set trainer.precision=bf16-mixed, or objective.kind=csd."
            )

    def of_latents(
        self, module: Any, lq: Tensor, made: Generated, generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Loss "distillation", whose gradient is the difference of two estimates; the LoRA learns from the same."""
        assert self.frozen is not None  # `prepare` has made it
        latents = made.latents.float()
        fixed = latents.detach()
        seen = self.frozen.see(lq, made.tokens)
        noise = normal(fixed, generators)
        timesteps = drawn(self.first, self.last + 1, generators, fixed.device)
        noisy = module.noise_schedule.add_noise(fixed, noise, timesteps)
        with lora_switched_off(self.frozen):
            likely = self.frozen.clean(noisy, timesteps, made.prompt_embeds, seen)
            if self.guidance != 1:
                without = self.frozen.clean(
                    noisy, timesteps, caption_embeds(module, self.negative_caption, made.prompt_embeds), seen
                )
                likely = without + self.guidance * (likely - without)
        own = without if self.kind == "csd" else self.frozen.clean(noisy, timesteps, made.prompt_embeds, seen)
        scale = (fixed - likely).abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        target = fixed - (own - likely) / scale
        if self.companion:
            self._learn(module, fixed, made.prompt_embeds, seen, generators)
        return {"distillation": self.weight * F.mse_loss(latents, target)}

    def _learn(
        self, module: Any, latents: Tensor, prompt_embeds: Tensor, seen: Seen, generators: list[torch.Generator]
    ) -> None:
        """Add the gradients of a batch to those of the LoRA: it learns to denoise what the step makes."""
        frozen = self.frozen
        assert frozen is not None

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return frozen.predict(noisy, timesteps, prompt_embeds, seen)

        loss = denoising(module, latents, generators, predict)
        torch.autograd.backward(loss / module.trainer.accumulate_grad_batches)
        self._figures["distillation/lora_loss"] = loss.detach()
        self._learned = True

    def rehearse(self, latents: Tensor, lq: Tensor, prompt_embeds: Tensor, tokens: Tensor) -> None:
        """What the LoRA learns, by a loss of its own."""
        if self.companion and self.frozen:
            timesteps = torch.zeros(len(latents), dtype=torch.long)
            seen = self.frozen.see(lq, tokens)
            made = self.frozen.predict(latents.detach(), timesteps, prompt_embeds, seen)
            torch.autograd.backward(made.float().square().mean())

    def to(self, device: torch.device) -> None:
        """Move everything, and what the LoRA's optimizer remembers."""
        super().to(device)
        if self.companion:
            self.companion.follow()

    def end_step(self) -> None:
        """Update what is trained along."""
        super().end_step()
        if self.companion and self._learned:
            self._figures["distillation/lora_gradient_norm"], _ = self.companion.update()
            self._learned = False

    def networks(self) -> Iterator[nn.Module]:
        """Those of `OneStep`, and the frozen denoiser."""
        yield from super().networks()
        if self.frozen:
            yield self.frozen

    def figures(self) -> dict[str, float | Tensor]:
        """Those of `OneStep`, and the loss and gradient of the LoRA."""
        return super().figures() | self._figures

    def state_dict(self) -> dict[str, Any]:
        """That of `OneStep`, and what of the frozen denoiser and of the LoRA is nowhere else."""
        state = {**super().state_dict(), **self._state}
        if self.frozen:
            state["frozen"] = self.frozen.own_weights()
        if self.companion:
            figures = {name: float(value) for name, value in self._figures.items()}
            state["lora"] = {"optimizer": self.companion.optimizer.state_dict(), "figures": figures}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was kept; what belongs to networks that `prepare` makes waits for it."""
        super().load_state_dict({key: value for key, value in state.items() if key not in ("frozen", "lora")})
        self._state = {key: state[key] for key in ("frozen", "lora") if key in state}

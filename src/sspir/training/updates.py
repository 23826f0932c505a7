"""An update of the weights: its kernel, the norm of its gradients, and updates that are left out."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from sspir.batch import Batch
from sspir.device import Coming
from sspir.errors import NotFiniteError
from sspir.numbers import COUNT
from sspir.training.loggers import wandb_runs
from sspir.training.strategy import ShardedStrategy, full_tensor

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
_KERNELS = {"fused", "foreach", "capturable", "differentiable"}


def optimizer_of(factory: OptimizerFactory, parameters: list[nn.Parameter], module: pl.LightningModule) -> Any:
    """Make an optimizer; on a GPU Adam's update is one kernel unless the configuration names another.

    Who goes on from a checkpoint of another device takes the kernel of its own.

    Args:
        factory: of the optimizer.
        parameters: that it updates.
        module: whose device, precision, strategy and clipping decide.
    """
    kind, settings = getattr(factory, "func", factory), getattr(factory, "keywords", {})
    if kind not in (torch.optim.Adam, torch.optim.AdamW) or _KERNELS & settings.keys():
        return factory(parameters)
    fused = module.device.type == "cuda" and _may_fuse(module.trainer)
    optimizer = factory(parameters, fused=True) if fused else factory(parameters)  # type: ignore[call-arg]  # Adam's
    optimizer.register_load_state_dict_pre_hook(_with_own_kernel)
    return optimizer


def _may_fuse(trainer: pl.Trainer) -> bool:
    """Not with fp16's scaler, with weights that are shared over processes, or clipped by value."""
    sharded = isinstance(trainer.strategy, ShardedStrategy)
    return _scaler(trainer) is None and trainer.gradient_clip_algorithm != "value" and not sharded


def _with_own_kernel(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return {**state, "param_groups": [{**group, "fused": own["fused"]} for group, own in groups]}


def _scaler(trainer: pl.Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _leaves_out(optimizer: Any) -> bool:
    """Whether its kernel leaves an update out where `found_inf` is 1: torch's fused ones do so for gradient scalers."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and getattr(optimizer, "_step_supports_amp_scaling", False)


def gradients_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters of an optimizer that have a gradient."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def norm_of(parameters: list[nn.Parameter]) -> Tensor:
    """Norm of all gradients together, a scalar; shared as they are."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip(
    module: Any, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
) -> None:
    """Clip gradients, by the norm that `SkipNaN` has measured where there is one.

    Args:
        module: a `RestorationModule`.
        optimizer: of the gradients.
        gradient_clip_val: largest norm, or largest value; None or 0 clips nothing.
        gradient_clip_algorithm: "value", or else the norm.
    """
    norm, module.gradient_norm = module.gradient_norm, None
    if _scaler(module.trainer) is not None or gradient_clip_algorithm == "value":
        module.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
    elif gradient_clip_val:
        parameters = gradients_of(optimizer)
        nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm_of(parameters) if norm is None else norm)


class SkipNaN(Callback):
    """Leave out optimizer steps whose gradients are not finite, count them, and stop after a few in a row.

    Gradients are looked at after they were shared, so that all ranks leave out the same steps. In fp16 a gradient
    scaler leaves out steps by itself while it looks for a scale that does not overflow: these are counted apart, as
    `overflowed_steps`, and stop nothing before the scale has fallen below 1. A fused optimizer leaves a step out on
    its device, which is not waited for: the step is counted when the next one comes.

    Args:
        limit: such steps in a row that stop the run; the last checkpoint is then the last good one.
    """

    def __init__(self, limit: int = 3) -> None:
        self.limit = COUNT.require("callbacks.nan.limit", limit)
        self.skipped = 0
        self.overflowed = 0
        self.in_a_row = 0
        self.ids: list[str] = []
        self._coming: tuple[Coming, int, list[str]] | None = None  # of the last step: whether it is left out

    def state_dict(self) -> dict[str, int]:
        """What a run that goes on counts on."""
        return {"skipped": self.skipped + self._left_out_last(), "overflowed": self.overflowed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Count on."""
        self.skipped, self.overflowed = state_dict["skipped"], state_dict["overflowed"]

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, *_: Any) -> None:
        """Remember which images the coming step sees."""
        self.ids += batch.ids

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        """Drop gradients that are not finite, so that the optimizer skips the step; a gradient scaler must see them."""
        parameters = gradients_of(optimizer)
        norm = norm_of(parameters)
        module.gradient_norm = norm  # `clip` takes it
        whole = full_tensor(norm)
        module.log("gradient_norm", whole)  # before it is clipped
        # Also where none is: what is not logged may not be counted. A tensor, as a number would wait for the device
        module.log("skipped_steps", torch.tensor(float(self.skipped)))
        ids, self.ids = self.ids, []
        scaler = _scaler(trainer)
        if scaler is None and whole is norm and _leaves_out(optimizer):
            self._count_last(module)
            optimizer.found_inf = (~torch.isfinite(norm)).float()
            self._coming = Coming(optimizer.found_inf), trainer.global_step, ids
            return
        if torch.isfinite(whole):
            self.in_a_row = 0
            return
        if scaler is None:
            for parameter in parameters:
                parameter.grad = None
        elif scaler.get_scale() >= 1:
            self.overflowed += 1
            module.log("overflowed_steps", float(self.overflowed))
            return
        self._count(module, trainer.global_step, ids)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Count the last step."""
        self.skipped += self._left_out_last()

    def _left_out_last(self) -> bool:
        """Whether the last step, which is not counted yet, is left out; waits for the device."""
        return self._coming is not None and bool(self._coming[0]())

    def _count_last(self, module: pl.LightningModule) -> None:
        if self._coming is None:
            return
        left_out, step, ids = self._coming
        if left_out():
            self._count(module, step, ids)
        else:
            self.in_a_row = 0

    def _count(self, module: pl.LightningModule, step: int, ids: list[str]) -> None:
        self.skipped += 1
        self.in_a_row += 1
        module.log("skipped_steps", float(self.skipped))
        for run in wandb_runs(module.trainer):
            run.alert_once("broken step", f"Step {step} is left out: {', '.join(ids)}", "WARN")
        if self.in_a_row == self.limit:
            raise NotFiniteError(
                f"{self.limit} steps in a row had gradients that are not finite, the last one at step {step} with the "
                f"images {', '.join(ids)}; the last checkpoint is a good one: lower the learning rate or use bf16 "
                f"instead of fp16, and start the same command again."
            )


def require_finite(folder: Path, done: Mapping[str, float], monitor: str) -> None:
    """Refuse to call a training finished whose pictures cannot be measured.

    Args:
        folder: of the run.
        done: the step and the last validation, as far as there is one.
        monitor: name of the value that must be finite.

    Raises:
        NotFiniteError: it is not.
    """
    if not math.isfinite(value := done.get(monitor, 0.0)):
        raise NotFiniteError(
            f"{folder} has made {done['step']:.0f} steps, but its last {monitor} is {value}: no picture of it can be "
            f"measured. Begin anew in another folder, with a lower optimizer.lr if the losses are no numbers either."
        )

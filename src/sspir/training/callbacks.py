"""Callbacks of training: averaged weights, stopping early, and what the best checkpoint is chosen by."""

import json
import logging
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping
from torch import Tensor

from sspir.config.trust import dotted, leaves
from sspir.data.manifest import Manifest
from sspir.numbers import DECAY
from sspir.training.parts import trained_weights
from sspir.training.strategy import full_tensor, shared_as

log = logging.getLogger(__name__)
# Of validation photos, which the manifest tells
_PLACES = ("root", "other_root", "roots", "lq", "hq", "folder", "cache", "cache_gb")


class EMA(Callback):
    """Exponential moving average of the trained weights: validation and users get it, training goes on without it.

    Args:
        decay: per step; in step n at most (1 + n) / (10 + n), so that the first weights are forgotten.

    Raises:
        UserError: the decay is not from 0 to below 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = DECAY.require("callbacks.ema.decay", decay)
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}
        self.steps = 0
        self._averages: list[Tensor] = []
        self._weights: list[Tensor] = []  # share the network's memory, which stays where it is

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start with the weights as they are, or go on with the average of a checkpoint, which was read before."""
        current = _trained(module)
        self.average = {key: shared_as(self.average.get(key, value), value).clone() for key, value in current.items()}
        self._averages, self._weights = list(self.average.values()), list(current.values())

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Average once per optimizer step."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._weights, weight)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the average in the network."""
        if self.average:
            self.raw = {key: value.clone() for key, value in _trained(module).items()}
            _assign(module, self.average)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the raw weights back."""
        if self.raw:
            _assign(module, self.raw)
            self.raw = {}

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Put the raw weights back before anything saves them."""
        self.on_validation_end(trainer, module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the average beside the raw weights; a checkpoint within validation holds the raw ones too."""
        checkpoint["ema"] = {key: full_tensor(value) for key, value in self.average.items()}
        if self.raw:
            checkpoint["state_dict"] |= {key: full_tensor(value) for key, value in self.raw.items()}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the checkpoint's average."""
        self.average = dict(checkpoint.get("ema", {}))
        self.steps = checkpoint["global_step"]


def _trained(module: Any) -> dict[str, Tensor]:
    """Name in the module -> trained weight, which shares its memory."""
    return {key: parameter.detach() for key, parameter in trained_weights(module).items()}


def _assign(module: Any, values: dict[str, Tensor]) -> None:
    for key, parameter in _trained(module).items():
        parameter.copy_(values[key])


class EarlyStopping(LightningEarlyStopping):
    """Ends a training whose validation no longer improves; the metric says whether higher or lower is better.

    Args:
        monitor: name of the metric: METRIC or SET/METRIC.
        patience: validations without a better value that end the training; a run may go on with a larger patience.
        min_delta: by how much a value must be better to count, in the metric's unit.
    """

    def __init__(self, monitor: str, patience: int = 10, min_delta: float = 0.0) -> None:
        super().__init__(f"val/{monitor}", patience=patience, check_on_train_epoch_end=False)
        self.metric, self.delta = monitor, min_delta

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Take the direction from the module's metric; the base class wants it before there is a module."""
        if stage != "fit":  # which has begun to count
            return
        sets = trainer.datamodule.validation_names  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        self.mode = pl_module.validation.good_end(self.metric, sets)
        sign = 1 if self.mode == "max" else -1
        self.min_delta, self.best_score = sign * self.delta, torch.tensor(-sign * torch.inf)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of this run instead of the checkpoint's."""
        super().load_state_dict({**state_dict, "patience": self.patience})


class Choice(Callback):
    """Begins anew with the best checkpoint and with patience where values cannot be compared with those of before.

    Args:
        config: of the training.
        manifest: of its photos.
    """

    def __init__(self, config: DictConfig, manifest: Manifest) -> None:
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        sets = resolved["data"]["validation"] or {}
        settings = {dotted(key): leaf for key, leaf in leaves(sets) if not set(key) & set(_PLACES)}
        measured = {
            "monitor": config.monitor,
            "metric": resolved["metric"].get(config.monitor.rpartition("/")[2]),
            "sampler": resolved["sampler"],
            "dataset.validation": [settings, {name: manifest[name] for name in sets}],
            "trainer.limit_val_batches": resolved["trainer"].get("limit_val_batches"),
        }
        self.by = {name: json.dumps(value, sort_keys=True, default=str) for name, value in measured.items()}

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what values are measured by."""
        checkpoint["chosen_by"] = self.by

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forget the best value where it was measured otherwise; one of before this was noted is kept."""
        before = checkpoint.get("chosen_by", self.by)
        changed = [name for name, value in self.by.items() if before.get(name) != value]
        if not changed:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # a list
            if isinstance(callback, ModelCheckpoint | LightningEarlyStopping) and callback.monitor:
                checkpoint["callbacks"].pop(callback.state_key, None)
        log.warning("The best checkpoint, and patience, begin anew, as validations differ in %s.", ", ".join(changed))

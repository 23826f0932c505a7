"""A training as a job of Hydra, which may be a trial of a search: it tells its best value, and is pruned."""

import logging
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from sspir.config.build import build
from sspir.config.compose import told
from sspir.config.sweep import job_overrides
from sspir.errors import NotFiniteError, UserError
from sspir.training.fit import train
from sspir.training.history import read_history
from sspir.training.run import METRICS
from sspir.training.study import FOLDER, REASON, load_study, optuna
from sspir.training.validation import Validation

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float | list[float] | None:
    """Train, as the task of `sspir train` and `sspir sweep`.

    Args:
        config: composed `conf/train.yaml`.

    Returns:
        The best value of `monitor` so far, over all of the run; None where it was not validated, NaN where its last
        value is none. `good_end` says which end is the best. In a search with several objectives, the values of all.

    Raises:
        UserError: the configuration asks for what cannot be done; in a search any error, which its trial notes.
    """
    options = HydraConfig.get().sweeper
    if OmegaConf.select(options, "trial") is not None:
        return _as_trial(config, options)
    train(config)
    values = best_values(Path(config.folder), [config.monitor], good_end(config, config.monitor))
    return values[0] if values else None


def good_end(config: DictConfig, monitor: str) -> str:
    """Whether the highest or the lowest value of a metric is its best, "max" or "min".

    Args:
        config: of the training.
        monitor: METRIC or SET/METRIC.

    Raises:
        UserError: there is no such metric, it cannot be measured here, or its ideal is in the middle.
    """
    name = monitor.rpartition("/")[2]
    if name not in config.metric:
        choices = ", ".join(config.metric)
        raise UserError(f"{monitor} is not validated; choose one of {choices}, or add it to metric.")
    return Validation({name: build(config.metric[name])}).good_end(monitor, list(config.dataset.validation or ()))


def best_values(folder: Path, objectives: Sequence[str], end: str) -> list[float]:
    """The values of the validation at which the first objective was best, as the run's record has them.

    Args:
        folder: of the run.
        objectives: names of metrics.
        end: of the first one that is good, "max" or "min".

    Returns:
        A value for each; NaN where the last validation has none. Nothing where there was no validation.
    """
    path, names = folder / METRICS, [f"val/{name}" for name in objectives]
    rows = [[float(row[name]) for name in names] for row in _rows(path) if row.keys() >= set(names)]
    if not rows or not all(map(math.isfinite, rows[-1])):
        return [math.nan] * len(names) if rows else []
    whole = [row for row in rows if all(map(math.isfinite, row))]
    return (max if end == "max" else min)(whole, key=lambda row: row[0])


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_history(path)) if path.is_file() else []


class ReportToTrial(Callback):
    """Reports each validation to a trial, and ends the training where it is pruned; it may go on later.

    Args:
        trial: Optuna's.
        objectives: names of metrics; Optuna prunes by a single one.
    """

    def __init__(self, trial: Any, objectives: Sequence[str]) -> None:
        self.trial, self.objectives, self.reason = trial, objectives, ""
        self.known = set(trial.study.trials[trial.number].intermediate_values)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Report, and ask Lightning to stop, which makes it save first."""
        if trainer.sanity_checking:
            return
        step, values = trainer.global_step, [float(trainer.callback_metrics[f"val/{name}"]) for name in self.objectives]
        if not all(map(math.isfinite, values)):
            self.reason = f"val/{self.objectives[0]} is not finite at step {step}."
        elif len(values) == 1:
            if step not in self.known:  # it has been reported by a process that was killed
                self.trial.report(values[0], step)
            if step != trainer.max_steps and self.trial.should_prune():
                pruner = type(self.trial.study.pruner).__name__
                self.reason = f"val/{self.objectives[0]} is {values[0]:.5g} at step {step}, where {pruner} ends it."
        if self.reason:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave, before the run is noted as finished."""
        if self.reason:
            raise optuna().TrialPruned(self.reason)


def _as_trial(config: DictConfig, options: DictConfig) -> float | list[float] | None:
    """Train and tell the study how it went; a process that is stopped leaves the trial running."""
    package, place = optuna(), Path(options.folder)
    study = load_study(place, options.study, build(options.pruner))
    frozen = study.trials[options.trial]
    trial = package.trial.Trial(study, frozen._trial_id)
    trial.set_user_attr(FOLDER, os.path.relpath(config.folder, place))
    objectives = list(options.objectives)
    try:
        train(config, callbacks=[ReportToTrial(trial, objectives)])
        values = best_values(Path(config.folder), objectives, study.directions[0].name[:3].lower())
        if not values:
            raise UserError(f"{config.folder} has no validation of {', '.join(objectives)} in its {METRICS}.")
        if not all(map(math.isfinite, values)):
            raise NotFiniteError(f"The last val/{objectives[0]} is not finite.")
        study.tell(trial.number, values)
        return values if len(values) > 1 else values[0]
    except (package.TrialPruned, NotFiniteError) as stop:
        trial.set_user_attr(REASON, str(stop))
        study.tell(trial.number, state=package.trial.TrialState.PRUNED)
        command = shlex.join(["sspir", "train", *job_overrides()])
        log.info("Trial %d is pruned: %s To go on with it: %s", trial.number, stop, command)
        return math.nan
    except Exception as error:
        if (sentence := told(error)) is None:
            log.exception("Trial %d failed.", trial.number)
            sentence = UserError(f"{type(error).__name__}: {' '.join(str(error).split())}")
        trial.set_user_attr(REASON, str(sentence))
        study.tell(trial.number, state=package.trial.TrialState.FAIL)
        raise sentence from error

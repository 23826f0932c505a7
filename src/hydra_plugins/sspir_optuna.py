"""Hydra's sweeper `optuna`: a search by a study of Optuna, one trial per job. Hydra looks for sweepers here alone."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sspir.config.space import Parameter, split_space
from sspir.config.sweep import naming
from sspir.errors import UserError

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Asks a study for trials and launches them; each job tells the study how it went.

    Args:
        options: as in `sspir.config.schema.SearchConfig`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = OmegaConf.create(options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Get the launcher of the jobs."""
        self.master, self.loader = config, hydra_context.config_loader
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has as many finished ones as are asked for.

        Args:
            arguments: overrides, of which some vary.

        Raises:
            UserError: the search cannot be, is running already, or jobs in other processes failed.
        """
        from sspir.training.run import locked
        from sspir.training.study import begin_study, optuna

        optuna()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("A search trains each trial in one process; start it without torchrun.")
        given = [f"{key}={value}" for key, value in (self.options.params or {}).items()]
        self.fixed, self.space = split_space([*given, *(each for each in arguments if not each.startswith("sweep="))])
        objectives, folder = self._objectives(), Path(self.options.folder)
        distributions = {each.name: each.distribution() for each in self.space}
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "hydra.sweeper.study=NAME"):
            self.study = begin_study(folder, self.options.study, objectives, distributions, self.fixed)
            self._give_up_others(distributions)
            failed = self._run(distributions)
        self._say_best()
        if failed:
            raise UserError("\n".join(failed))

    def _objectives(self) -> dict[str, str]:
        """Metric -> its good end."""
        from sspir.config.compose import modern
        from sspir.training.search import good_end

        names = list(self.options.objectives)
        asked = [
            text for text in self.master.hydra.overrides.hydra if text.lstrip("+~").startswith("hydra.sweeper.pruner")
        ]
        if len(names) > 1 and any(not text.endswith("=null") for text in asked):
            raise UserError(f"{asked[0]}: Optuna prunes by one objective alone; give one, or leave the pruner out.")
        training = modern(OmegaConf.masked_copy(self.master, [str(key) for key in self.master if key != "hydra"]))
        return {name: good_end(training, name) for name in names}

    def _give_up_others(self, distributions: dict[str, Any]) -> None:
        """Fail the trials that a process has left which is gone and whose space was another: no job is as they were."""
        for trial in self.study.trials:
            if trial.state.name == "RUNNING" and trial.params.keys() != distributions.keys():
                drawn = ", ".join(trial.params) or "nothing"
                problem = f"It was stopped with values of {drawn}; the space is now {', '.join(distributions)}."
                log.warning("Trial %d failed: %s", trial.number, problem)
                self._tell_failed(trial.number, problem)

    def _run(self, distributions: dict[str, Any]) -> list[str]:
        """Run trials; returns a sentence for each that failed to be composed or in another process."""
        failed: list[str] = []
        while batch := self._next(distributions):
            trials = self.study.trials
            twins = {number: twin for number in batch if (twin := _twin(trials, number, batch)) is not None}
            jobs = {number: self._overrides(trials[number]) for number in batch if number not in twins}
            for number, problem in self._refused(jobs).items():
                failed.append(problem)
                self._tell_failed(number, problem)
                del jobs[number]
            if jobs:
                failed += self._launch(jobs)
            for number, twin in twins.items():
                self._tell_as(number, twin)
            if any(self.study.trials[number].state.name == "RUNNING" for number in batch):
                log.warning("A trial was stopped; the same command goes on with it.")
                break
        return failed

    def _next(self, distributions: dict[str, Any]) -> list[int]:
        """Numbers of the trials that run next, those first that a process has left which is gone."""
        trials = self.study.trials
        rest = self.options.n_trials - sum(trial.state.is_finished() for trial in trials)
        count = max(0, min(rest, self.options.n_jobs))
        numbers = [trial.number for trial in trials if trial.state.name == "RUNNING"][:count]
        while len(numbers) < count:  # a sampler for each, so that a search that goes on repeats no draw
            seed = self.options.seed + len(self.study.trials)
            self.study.sampler = instantiate(self.options.sampler, seed=seed)
            numbers.append(self.study.ask(distributions).number)
        return numbers

    def _overrides(self, trial: Any) -> list[str]:
        values = [f"{each.key}={_text(each, trial.params)}" for each in self.space]
        return [*self.fixed, *values, *naming(each.name for each in self.space), f"hydra.sweeper.trial={trial.number}"]

    def _refused(self, jobs: dict[int, list[str]]) -> dict[int, str]:
        """The trials whose configuration cannot be composed, such as one of an unknown ablation, and why."""
        found = {}
        for number, overrides in jobs.items():
            try:
                self.loader.load_sweep_config(self.master, overrides)
            except Exception as error:  # Hydra's, OmegaConf's and YAML's
                found[number] = f"Trial {number} cannot be composed: {' '.join(str(error).split())}"
        return found

    def _launch(self, jobs: dict[int, list[str]]) -> list[str]:
        for number, overrides in jobs.items():
            log.info("Trial %d: %s", number, " ".join(overrides[len(self.fixed) :][: len(self.space)]))
        done = self.launcher.launch(list(jobs.values()), initial_job_idx=min(jobs))
        failed = {number: job for number, job in zip(jobs, done, strict=True) if job.status is JobStatus.FAILED}
        return [f"Trial {number}: {job._return_value}" for number, job in failed.items()]

    def _tell_failed(self, number: int, problem: str) -> None:
        from optuna.trial import TrialState

        from sspir.training.study import REASON

        _storable(self.study, number).set_user_attr(REASON, problem)
        self.study.tell(number, state=TrialState.FAIL)

    def _tell_as(self, number: int, twin: int) -> None:
        """Give a trial what an equal one has come to: nothing is trained twice."""
        from sspir.training.study import FOLDER, REASON

        first = self.study.trials[twin]
        if not first.state.is_finished():
            return
        trial = _storable(self.study, number)
        trial.set_user_attr(REASON, f"The same as trial {twin}.")
        if FOLDER in first.user_attrs:
            trial.set_user_attr(FOLDER, first.user_attrs[FOLDER])
        values = first.values if first.state.name == "COMPLETE" else None
        self.study.tell(number, values, state=first.state)

    def _say_best(self) -> None:
        from sspir.training.study import OBJECTIVES

        names = list(self.study.user_attrs[OBJECTIVES])
        twins = {
            ", ".join(f"{key}={value}" for key, value in trial.params.items()): trial
            for trial in reversed(self.study.best_trials)
        }
        for words, trial in reversed(twins.items()):
            values = ", ".join(f"{name} {value:.5g}" for name, value in zip(names, trial.values, strict=True))
            log.info("Best of %d: trial %d, %s with %s", len(self.study.trials), trial.number, values, words)


def _text(parameter: Parameter, values: dict[str, Any]) -> str:
    """A value as Hydra takes it; its choices are in that form."""
    value = values[parameter.name]
    return value if isinstance(value, str) else repr(value)


def _twin(trials: Sequence[Any], number: int, batch: Sequence[int]) -> int | None:
    """The first earlier trial with the same values that was not in vain, or runs in the same batch."""
    for other in trials[:number]:
        counts = other.state.name in ("COMPLETE", "PRUNED") or other.number in batch
        if counts and other.params == trials[number].params:
            return int(other.number)
    return None


def _storable(study: Any, number: int) -> Any:
    """A trial that is told more than a number."""
    from optuna.trial import Trial

    return Trial(study, study.trials[number]._trial_id)

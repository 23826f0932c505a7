"""Searches: trials with their values and settings, what matters, and what goes with what."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from sspir.evaluation.table import number
from sspir.report.charts import chart
from sspir.report.html import legend, link, table
from sspir.report.search_charts import Axis, bars, parallel_coordinates
from sspir.training.study import FOLDER, OBJECTIVES, REASON, load_studies, optuna

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}  # others have begun, or were stopped


class Trial(NamedTuple):
    """A trial of a search.

    Attributes:
        number: from 0.
        state: in a word.
        values: of the objectives; nothing where it is not complete.
        parameters: setting -> its value.
        folder: of its run; None where it has none.
        reason: why it failed or was pruned.
    """

    number: int
    state: str
    values: Sequence[float]
    parameters: Mapping[str, Any]
    folder: Path | None
    reason: str


@dataclass(frozen=True)
class Search:
    """A study.

    Attributes:
        name: of the study, with its folder.
        objectives: metric -> "max" or "min".
        trials: by number.
        best: numbers of the best trial, or of those on the front of several objectives.
        importance: metric -> setting -> its share in what makes a value good; empty where that cannot be said.
        logarithmic: settings that were drawn in the logarithm.
    """

    name: str
    objectives: Mapping[str, str]
    trials: Sequence[Trial]
    best: Sequence[int]
    importance: Mapping[str, Mapping[str, float]]
    logarithmic: frozenset[str]

    @property
    def parameters(self) -> list[str]:
        """The settings that vary."""
        return sorted({name for trial in self.trials for name in trial.parameters})

    @property
    def complete(self) -> list[Trial]:
        """The trials that have values."""
        return [trial for trial in self.trials if trial.values]


def read_searches(folder: Path) -> list[Search]:
    """The studies in a folder.

    Raises:
        UserError: Optuna is not installed, or the file cannot be read.
    """
    return [_read(folder, study) for study in load_studies(folder)]


def _read(folder: Path, study: Any) -> Search:
    ends = {f"value {index}": way.name[:3].lower() for index, way in enumerate(study.directions)}  # of others' studies
    trials = study.trials
    best = study.best_trials if any(trial.values for trial in trials) else []
    scales = {key: getattr(each, "log", False) for trial in trials for key, each in trial.distributions.items()}
    return Search(
        f"{study.study_name} in {'/'.join(folder.resolve().parts[-2:])}",
        objectives := study.user_attrs.get(OBJECTIVES, ends),
        [_trial(folder, trial) for trial in trials],
        [trial.number for trial in best],
        {name: _importance(study, index, end) for index, (name, end) in enumerate(objectives.items())},
        frozenset(key for key, log in scales.items() if log),
    )


def _trial(folder: Path, trial: Any) -> Trial:
    place, complete = trial.user_attrs.get(FOLDER), trial.state.name == "COMPLETE"
    return Trial(
        trial.number,
        STATES.get(trial.state.name, "stopped or running"),
        trial.values if complete else [],
        trial.params,
        (folder / place).resolve() if place else None,
        trial.user_attrs.get(REASON, ""),
    )


def _importance(study: Any, index: int, end: str) -> dict[str, float]:
    """Shares by PED-ANOVA, which tells what the best tenth of the trials has in common; it takes no other package."""
    package, sign = optuna(), -1 if end == "max" else 1
    evaluator = package.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that low values are taken for good: they are
        try:
            shares = package.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: sign * trial.values[index]
            )
        except (ValueError, RuntimeError):  # fewer than two trials, or nothing that varies
            return {}
    return dict(shares)


def search_section(search: Search, runs: Mapping[Path, str]) -> str:
    """The section about a search.

    Args:
        search: its trials.
        runs: folder -> name of a run that the page shows.
    """
    counts = Counter(trial.state for trial in search.trials)
    ends = ", ".join(
        f"{name} ({'highest' if end == 'max' else 'lowest'} is best)" for name, end in search.objectives.items()
    )
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    parts = [
        f"<section><h2>Search: {escape(search.name)}</h2>",
        f'<p class="note">{escape(ends)}; {states or "no trials yet"}. The best value of the whole run counts'
        f"{', in bold the best' if len(search.objectives) == 1 else ' by the first, in bold the front of all'}.</p>",
        _trials(search, runs),
        _charts(search),
        "</section>",
    ]
    return "".join(parts)


def _trials(search: Search, runs: Mapping[Path, str]) -> str:
    names = search.parameters
    reasons = any(trial.reason for trial in search.trials)
    head = ["trial", "state", *search.objectives, *names, "run", *(["why"] if reasons else [])]
    rows = []
    for trial in search.trials:
        texts = [number(value) for value in trial.values] or ["–"] * len(search.objectives)
        values = [f"<b>{text}</b>" if trial.number in search.best else text for text in texts]
        settings = [escape(_shown(trial.parameters[name])) if name in trial.parameters else "–" for name in names]
        run = runs.get(trial.folder) if trial.folder else None
        place = link(run, run) if run else escape(trial.folder.name) if trial.folder else "–"
        why = [escape(trial.reason)] if reasons else []
        cells = "".join(f"<td>{text}</td>" for text in [trial.state, *values, *settings, place, *why])
        rows.append(f"<tr><th>{trial.number}</th>{cells}</tr>")
    return table("".join(f"<th>{escape(name)}</th>" for name in head), rows)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _charts(search: Search) -> str:
    figures = []
    if len(search.complete) > 1:
        axes = [Axis(name, name in search.logarithmic) for name in [*search.parameters, *search.objectives]]
        lines = {
            f"trial {trial.number}": {**trial.parameters, **dict(zip(search.objectives, trial.values, strict=True))}
            for trial in search.complete
        }
        judge, end = next(iter(search.objectives.items()))
        best = [f"trial {index}" for index in search.best]
        drawn = parallel_coordinates(axes, lines, judge, end, best)
        caption = f"complete trials, the better by {judge} the stronger; coloured: the best"
        figures.append(f'<figure class="wide">{drawn}<figcaption>{escape(caption)}</figcaption></figure>')
    for name, shares in search.importance.items():
        if shares:
            caption = f"importance for {name}: share in what the best tenth of the trials has in common (PED-ANOVA)"
            figures.append(f"<figure>{bars(shares)}<figcaption>{escape(caption)}</figcaption></figure>")
    fronts = []
    for first, second in combinations(range(len(search.objectives)), 2):
        x, y = (list(search.objectives)[index] for index in (first, second))
        series: dict[str, list[tuple[float, float]]] = {"other trials": [], "front": []}
        for trial in search.complete:
            kind = "front" if trial.number in search.best else "other trials"
            series[kind].append((trial.values[first], trial.values[second]))
        if search.complete:
            drawn = chart(series, x, lines=False)
            fronts.append(f"<figure>{drawn}<figcaption>{escape(f'{y} against {x}')}</figcaption></figure>")
    colors = legend(["other trials", "front"]) if fronts else ""
    return f'<div class="charts">{"".join(figures)}</div>{colors}<div class="charts">{"".join(fronts)}</div>'

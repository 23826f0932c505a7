"""An ablation study: each variant's mean, its spread over seeds, and its gain over the full method image by image."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sspir.evaluation.curve import METHOD
from sspir.evaluation.statistics import Difference, Values, compare, orient
from sspir.evaluation.table import interval_text, number
from sspir.report.results import STEP, Evaluation, ResultSet
from sspir.report.runs import Run, Trained, order
from sspir.report.settings import differing

FULL = "none"  # the variant that is ablated
Measured = tuple[Trained, ResultSet]
T = TypeVar("T")


class Kind(NamedTuple):
    """Runs of one experiment that are seeds of each other.

    Attributes:
        variant: name of the ablation.
        traits: the settings in which they differ from other runs of the variant, as text.
    """

    variant: str
    traits: str = ""

    @property
    def name(self) -> str:
        """The variant, and the traits if there are any."""
        return ", ".join(filter(None, self))


@dataclass(frozen=True)
class Row:
    """Runs of one kind on one metric.

    Attributes:
        variant: name of the kind.
        seeds: number of seeds.
        mean: over the seeds.
        spread: standard deviation over the seeds; None for a single one.
        gain: over the full method, image by image, positive if better; None for the full method itself.
    """

    variant: str
    seeds: int
    mean: float
    spread: float | None
    gain: Difference | None = None

    def texts(self) -> tuple[str, str]:
        """Mean ± spread over seeds; and the gain with its interval, "" where there is none."""
        text = number(self.mean) + (f" ± {number(self.spread, self.mean)}" if self.spread is not None else "")
        if self.gain is None:
            return text, ""
        gain = self.gain.gain
        return text, number(gain.mean) + interval_text(gain.mean, gain.low, gain.high)


@dataclass(frozen=True)
class Study:
    """Variants of one experiment that were measured alike.

    Attributes:
        title: experiment and benchmark, with checkpoint and settings if they are known.
        metrics: name -> its facts, as in `summary.json`.
        rows: metric -> one row per kind of run, the full method first.
    """

    title: str
    metrics: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, Sequence[Row]]


def by_variant(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row | None]]:
    """Variant -> its row of each metric, None where it has none."""
    found = [{row.variant: row for row in of_metric} for of_metric in rows.values()]
    return {variant: [each.get(variant) for each in found] for variant in dict.fromkeys(chain.from_iterable(found))}


def studies(results: Sequence[ResultSet]) -> list[Study]:
    """One study per experiment and way of evaluating, where there is more than one kind of run."""
    groups: dict[tuple[str, Evaluation], list[tuple[Trained, ResultSet]]] = defaultdict(list)
    for result in results:
        if result.trained and METHOD in result.summary["methods"]:
            groups[result.trained.experiment, result.evaluation].append((result.trained, result))
    found = []
    for (experiment, evaluation), members in groups.items():
        kinds = _by_kind(members)
        if len(kinds) > 1:
            facts = _metrics([result for _, result in members])
            rows = {metric: _rows(kinds, metric, facts[metric]) for metric in facts}
            found.append(Study(f"{experiment} on {evaluation.title}", facts, rows))
    return found


def unpaired(results: Sequence[ResultSet]) -> list[str]:
    """Sentences about runs that would be compared, had they been measured on the same photos."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if (run := result.trained) and METHOD in result.summary["methods"]:
            of_title = groups[run.experiment, result.evaluation.title]
            of_title[result.evaluation.pictures].append(f"{run.variant}-s{run.seed}")
    return [
        f"{experiment} on {title}: {' and '.join(', '.join(names) for names in sets.values())} were measured on "
        "different photos or captions, or by versions that differ in what they measure, and are not compared with each "
        "other; evaluate them again, on the same ones."
        for (experiment, title), sets in groups.items()
        if len(sets) > 1
    ]


def validations(runs: Sequence[Run]) -> dict[str, dict[str, list[Row]]]:
    """Experiment -> validation metric -> a row of last values per kind of run, where seeds are repeated."""
    experiments: dict[str, list[tuple[Trained, Run]]] = defaultdict(list)
    for run in runs:
        if run.trained:
            experiments[run.trained.experiment].append((run.trained, run))
    found = {}
    for experiment, members in experiments.items():
        kinds = _by_kind(members)
        names = sorted({name for _, run in members for name in run.validation}, key=order)
        rows = {
            name: [
                _row(kind, ends)
                for kind, pairs in kinds.items()
                if (ends := [(t.seed, run.validation[name]) for t, run in pairs if name in run.validation])
            ]
            for name in names
        }
        if any(row.spread is not None for of_metric in rows.values() for row in of_metric):
            found[experiment] = rows
    return found


def _by_kind(members: Sequence[tuple[Trained, T]]) -> dict[Kind, list[tuple[Trained, T]]]:
    """Group the runs of one experiment that differ in nothing but their seed, the full method first."""
    varied: dict[str, str] = {}  # setting -> its name
    for variant in dict.fromkeys(run.variant for run, _ in members):
        of_variant = [run.settings for run, _ in members if run.variant == variant]
        known = [settings for settings in of_variant if "name" in settings]  # a run may be gone, not its evaluation
        steps = [{STEP: settings.get(STEP, "")} for settings in of_variant]
        varied.update({setting.key: setting.name for setting in [*differing(known), *differing(steps)]})
    kinds: dict[Kind, list[tuple[Trained, T]]] = defaultdict(list)
    for run, item in members:
        traits = ", ".join(f"{name}={run.settings[key]}" for key, name in varied.items() if key in run.settings)
        kinds[Kind(run.variant, traits)].append((run, item))
    return {kind: kinds[kind] for kind in sorted(kinds, key=lambda kind: (kind.variant != FULL, kind))}


def _metrics(results: Sequence[ResultSet]) -> dict[str, Any]:
    """Metrics by which every run was measured."""
    of_sets = [result.summary["metrics"] for result in results]
    return {name: facts for name, facts in of_sets[0].items() if all(name in others for others in of_sets)}


def _rows(kinds: Mapping[Kind, Sequence[Measured]], metric: str, facts: Mapping[str, Any]) -> list[Row]:
    full = [kind for kind in kinds if _is_full(kind)]
    found = []
    for kind, members in kinds.items():
        sets = [(run, result) for run, result in members if metric in result.summary["methods"][METHOD]]
        if not sets:
            continue
        means = [(run.seed, result.summary["methods"][METHOD][metric]["mean"]) for run, result in sets]
        gain = None
        reference = _reference(kind, full)
        if reference and not _is_full(kind):
            ours, theirs = _paired(sets, kinds[reference], metric, facts)
            gain = compare(ours, theirs) if len(ours) else None
        found.append(_row(kind, means, gain))
    return found


def _is_full(kind: Kind) -> bool:
    """Whether nothing is ablated; other settings of a sweep stand behind the variant's name: none-lr-0.001."""
    return kind.variant == FULL or kind.variant.startswith(f"{FULL}-")


def _reference(kind: Kind, full: Sequence[Kind]) -> Kind | None:
    """The full method to compare a kind with: the one with the same settings, else the only one."""
    alike = [
        each for each in full if each.traits == kind.traits and kind.variant.endswith(each.variant.removeprefix(FULL))
    ]
    return max(alike, key=lambda each: len(each.variant), default=full[0] if len(full) == 1 else None)


def _row(kind: Kind, values: Sequence[tuple[str, float]], gain: Difference | None = None) -> Row:
    """A row of (seed, value) pairs; a seed that was run twice counts once."""
    of_seeds: dict[str, list[float]] = defaultdict(list)
    for seed, value in values:
        of_seeds[seed].append(value)
    means = [float(np.mean(repeated)) for repeated in of_seeds.values()]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Row(kind.name, len(means), float(np.mean(means)), spread, gain)


def _paired(
    ours: Sequence[Measured], theirs: Sequence[Measured], metric: str, facts: Mapping[str, Any]
) -> tuple[Values, Values]:
    """Per image how good both are: the mean over the seeds that both have (over all, where they share none)."""
    shared = {run.seed for run, _ in ours} & {run.seed for run, _ in theirs}
    values = [
        _per_image([result for run, result in members if not shared or run.seed in shared], metric, facts)
        for members in (ours, theirs)
    ]
    images = sorted(values[0].keys() & values[1].keys())
    first, second = (np.array([each[image] for image in images], dtype=np.float64) for each in values)
    return first, second


def _per_image(sets: Sequence[ResultSet], metric: str, facts: Mapping[str, Any]) -> dict[str, float]:
    """Image -> mean over the sets of its value, turned so that larger is better, for images that all of them have."""
    rows = [
        {
            image: float(orient(facts, row[METHOD][metric]))
            for image, row in result.values.items()
            if metric in row.get(METHOD, {})
        }
        for result in sets
    ]
    images = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {image: float(np.mean([row[image] for row in rows])) for image in images}

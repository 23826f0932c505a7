"""An ablation study: each variant's mean, its spread over seeds, and its gain over the full method image by image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sspir.metrics.statistics import Difference, Values, compare
from sspir.report.collect import ResultSet, Run

FULL = "none"  # the variant that is ablated
METHOD = "restored"  # what `sspir evaluate` calls a run's own pictures


@dataclass(frozen=True)
class Row:
    """One variant on one metric.

    Attributes:
        variant: name of the ablation.
        seeds: number of runs.
        mean: over the runs.
        spread: standard deviation over the runs; None for a single one.
        gain: over the full method, image by image, positive if better; None for the full method itself.
    """

    variant: str
    seeds: int
    mean: float
    spread: float | None
    gain: Difference | None = None


@dataclass(frozen=True)
class Study:
    """Variants of one experiment on one benchmark.

    Attributes:
        title: experiment and benchmark.
        metrics: name -> its facts, as in `summary.json`.
        rows: metric -> one row per variant, the full method first.
    """

    title: str
    metrics: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, Sequence[Row]]


def studies(results: Sequence[ResultSet]) -> list[Study]:
    """What the results of a sweep's runs say, where there is more than one variant."""
    groups: dict[tuple[str, str], dict[str, list[ResultSet]]] = {}
    for result in results:
        if result.trained and METHOD in result.summary["methods"]:
            benchmark = result.name.rpartition("/")[2]
            variants = groups.setdefault((result.trained.experiment, benchmark), {})
            variants.setdefault(result.trained.variant, []).append(result)
    found = []
    for (experiment, benchmark), variants in groups.items():
        if len(variants) > 1:
            facts = _metrics(variants)
            rows = {metric: _rows(variants, metric, facts[metric]) for metric in facts}
            found.append(Study(f"{experiment} on {benchmark}", facts, rows))
    return found


def validations(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Validation metric -> one row per variant, from where the runs' curves end; empty without repeated variants."""
    variants: dict[str, list[Run]] = {}
    for run in runs:
        if "variant" in run.settings:
            variants.setdefault(run.settings["variant"], []).append(run)
    if len(variants) < 2 or max(map(len, variants.values())) < 2:
        return {}
    names = sorted({name for run in runs for name in run.curves if name.startswith("val")})
    return {
        name: [
            _row(variant, ends)
            for variant in _full_first(variants)
            if (ends := [run.curves[name][-1][1] for run in variants[variant] if name in run.curves])
        ]
        for name in names
    }


def _metrics(variants: Mapping[str, Sequence[ResultSet]]) -> dict[str, Any]:
    """Metrics that every variant was measured by."""
    of_sets = [result.summary["metrics"] for sets in variants.values() for result in sets]
    return {name: facts for name, facts in of_sets[0].items() if all(name in others for others in of_sets)}


def _rows(variants: Mapping[str, Sequence[ResultSet]], metric: str, facts: Mapping[str, Any]) -> list[Row]:
    found = []
    for variant in _full_first(variants):
        sets = [result for result in variants[variant] if metric in result.summary["methods"][METHOD]]
        if not sets:
            continue
        means = [result.summary["methods"][METHOD][metric]["mean"] for result in sets]
        gain = None
        if variant != FULL and FULL in variants:
            ours, theirs = _paired(sets, variants[FULL], metric)
            gain = compare(_goodness(facts, ours), _goodness(facts, theirs)) if len(ours) else None
        found.append(_row(variant, means, gain))
    return found


def _row(variant: str, means: Sequence[float], gain: Difference | None = None) -> Row:
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Row(variant, len(means), float(np.mean(means)), spread, gain)


def _full_first(variants: Mapping[str, Any]) -> Iterator[str]:
    yield from sorted(variants, key=lambda variant: (variant != FULL, variant))


def _paired(ours: Sequence[ResultSet], theirs: Sequence[ResultSet], metric: str) -> tuple[Values, Values]:
    """Per image, the mean over the seeds that both have (over all, where they share none)."""
    shared = {r.trained.seed for r in ours if r.trained} & {r.trained.seed for r in theirs if r.trained}
    values = [
        _per_image([r for r in sets if not shared or (r.trained and r.trained.seed in shared)], metric)
        for sets in (ours, theirs)
    ]
    images = sorted(values[0].keys() & values[1].keys())
    first, second = (np.array([each[image] for image in images], dtype=np.float64) for each in values)
    return first, second


def _per_image(sets: Sequence[ResultSet], metric: str) -> dict[str, float]:
    """Image -> mean over the sets, for images that all of them have."""
    rows = [
        {image: row[METHOD][metric] for image, row in result.values.items() if metric in row.get(METHOD, {})}
        for result in sets
    ]
    images = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {image: float(np.mean([row[image] for row in rows])) for image in images}


def _goodness(facts: Mapping[str, Any], values: Values) -> Values:
    """Values turned so that larger is better, as `sspir.metrics.results.orient` turns them."""
    if facts["ideal"] is not None:
        return -np.abs(np.log(values / facts["ideal"]))
    return values if facts["higher_is_better"] else -values

"""A run's curve over steps on a benchmark, and the step that is best by each metric."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sspir.evaluation.statistics import orient
from sspir.evaluation.table import number
from sspir.files import read_json

CURVE = "curve.json"
METHOD = "restored"  # what `sspir evaluate` calls a run's own pictures


def read_curve(folder: Path) -> dict[str, Any]:
    """The curve that lies in a folder, {} where there is none."""
    return read_json(folder / CURVE)


def best_steps(curve: Mapping[str, Any], among: Sequence[int]) -> dict[str, int]:
    """Metric -> the step, of some, at which its mean is best; of equals the first. A ratio has none, see `best_of`."""
    found = {}
    for metric, facts in curve["metrics"].items():
        means = {
            point["step"]: float(orient(facts, point["methods"][METHOD][metric]["mean"]))
            for point in curve["points"]
            if point["step"] in among and metric in point["methods"].get(METHOD, {}) and facts["ideal"] is None
        }
        if means:
            found[metric] = max(means, key=lambda step: (means[step], -step))
    return found


def sentences(curve: Mapping[str, Any]) -> list[str]:
    """Which step is best by which metric, by the numbers of which benchmark, and what it has on this one.

    Args:
        curve: as in `curve.json`.
    """
    benchmark, chooser = curve["benchmark"], curve.get("choose_on", "")
    values = {point["step"]: point["methods"].get(METHOD, {}) for point in curve["points"]}
    best = [
        f"{metric}: step {step} ({number(values[step][metric]['mean'])})"
        for metric, step in curve.get("chosen", {}).items()
        if metric in values[step]
    ]
    if not best:
        return []
    if chooser == benchmark:
        return [
            f"Best steps on {benchmark}: {', '.join(best)}.",
            f"They were chosen by these numbers, which therefore flatter them: report them on another benchmark "
            f"(benchmark={benchmark},OTHER chooses on {benchmark} and reports on OTHER).",
        ]
    return [f"Best steps, chosen on {chooser}, with what they have on {benchmark}: {', '.join(best)}."]

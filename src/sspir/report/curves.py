"""Curves over steps of runs whose checkpoints were all evaluated, and which step is best."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sspir.errors import UserError
from sspir.evaluation.curve import CURVE, METHOD, read_curve, sentences
from sspir.evaluation.table import heading, number
from sspir.report.charts import chart
from sspir.report.html import legend, table, warnings
from sspir.training.run import CONFIG

Curve = Mapping[str, Any]  # as in `curve.json`


def read_points(folder: Path) -> dict[str, Any]:
    """The curve in a folder.

    Raises:
        UserError: it is broken.
    """
    curve = read_curve(folder)
    if not curve.get("points") or not curve.get("metrics"):
        raise UserError(f"The curve in {folder / CURVE} cannot be read; evaluate checkpoint=all again.")
    return curve


def covered(curves: Mapping[Path, Curve]) -> set[str]:
    """The evaluations that are points of the folders' curves, as `key` names them."""
    return {key(folder, curve, point["checkpoint"]) for folder, curve in curves.items() for point in curve["points"]}


def key(folder: Path, of: Mapping[str, Any], checkpoint: str) -> str:
    """What tells an evaluation of a run's checkpoint apart, of a folder's curve or of its evaluation's record."""
    run = Path(of["run"]).expanduser()  # a copy, or one trained anew, has the same name and seed
    above = (place for place in folder.resolve().parents if (place / run / CONFIG).is_file())
    place = next(above, Path())  # where the evaluation was started, as far as that is known
    told = [of.get(name) for name in ("name", "variant", "seed", "benchmark", "settings")]
    return json.dumps([str((place / run).resolve()), *told, checkpoint])


def curves_section(curves: Sequence[Curve]) -> str:
    """Per benchmark a chart of each metric with a line per run, the same numbers as a table, and the best steps."""
    sets: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        settings = ", ".join(f"{key}={value}" for key, value in curve["settings"].items())
        sets[", ".join(filter(None, (curve["benchmark"], settings)))].append(curve)
    parts = [_of_set(title, members) for title, members in sets.items()]
    return f"<section><h2>Checkpoints over time</h2>{''.join(parts)}</section>"


def _of_set(title: str, curves: Sequence[Curve]) -> str:
    names = [f"{curve['name']}/{curve['variant']}-s{curve['seed']}" for curve in curves]
    if len(set(names)) < len(names):  # copies of a run
        names = [curve["run"] for curve in curves]
    metrics = {name: facts for curve in curves for name, facts in curve["metrics"].items()}
    figures = []
    for metric in metrics:
        lines = {name: _line(curve, metric) for name, curve in zip(names, curves, strict=True)}
        if any(lines.values()):
            caption = f"<figcaption>{escape(f'{metric} on {title}')}</figcaption>"
            figures.append(f"<figure>{chart(lines, 'step')}{caption}</figure>")
    head = "".join(f"<th>{escape(text)}</th>" for text in ("step", *(heading(*each) for each in metrics.items())))
    rows = [
        f"<tr><th>{escape(name)}</th><td>{point['step']}</td>{_cells(curve, point, list(metrics))}</tr>"
        for name, curve in zip(names, curves, strict=True)
        for point in curve["points"]
    ]
    notes = [
        f'<p class="note">{escape(f"{name}: {text}" if len(names) > 1 else text)}</p>'
        for name, curve in zip(names, curves, strict=True)
        for text in sentences(curve)
    ]
    parts = [
        f"<h3>Checkpoints on {escape(title)}</h3>",
        warnings([text for curve in curves for text in curve["problems"]]),
        legend(names) if len(names) > 1 else "",
        f'<div class="charts">{"".join(figures)}</div>',
        table(f"<th>run</th>{head}", rows),
        "".join(notes),
        '<p class="note">Bold: at the best step.</p>',
    ]
    return "".join(parts)


def _line(curve: Curve, metric: str) -> list[tuple[float, float]]:
    cells = [(point["step"], point["methods"].get(METHOD, {}).get(metric)) for point in curve["points"]]
    return [(float(step), cell["mean"]) for step, cell in cells if cell]


def _cells(curve: Curve, point: Mapping[str, Any], metrics: Sequence[str]) -> str:
    values = {name: cell["mean"] for name, cell in point["methods"].get(METHOD, {}).items()}
    chosen = {name for name, step in curve.get("chosen", {}).items() if step == point["step"]}
    texts = {name: f"<b>{number(value)}</b>" if name in chosen else number(value) for name, value in values.items()}
    return "".join(f"<td>{texts.get(name, '–')}</td>" for name in metrics)

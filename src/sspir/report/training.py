"""Training runs as curves, tables and plots."""

import itertools
from collections.abc import Sequence
from html import escape

from sspir.evaluation.table import number
from sspir.report.charts import chart
from sspir.report.difference import difference_section
from sspir.report.html import anchor, details, legend, table
from sspir.report.runs import VALIDATION, Run, order, set_of
from sspir.report.settings import Setting, differing
from sspir.report.study import over_seeds

MOST_SWEEPS = 6  # scatter plots of a setting against a result


def runs_section(runs: Sequence[Run]) -> str:
    """The section about runs: curves, last validation and differing settings, configurations."""
    parts = ["<section><h2>Training</h2>", _not_applicable([run for run in runs if run.refused])]
    runs = [run for run in runs if not run.refused]
    if not runs:
        return "".join([*parts, "</section>"])
    if len(runs) > 1:
        parts.append(legend([run.name for run in runs]))
    parts.append(_curves(runs))
    parts.append(_ablation_table(runs))
    parts.append(_sweeps(runs))
    parts.append(difference_section(runs))
    parts.append(_configurations(runs))
    return "".join([*parts, "</section>"])


def _not_applicable(runs: Sequence[Run]) -> str:
    """A table of the runs whose model refused its configuration by design."""
    rows = [
        f"<tr><th>{escape(run.name)}</th><td>not applicable</td><td>{escape(run.refused)}</td></tr>" for run in runs
    ]
    return table("<th>run</th><th></th><th>why</th>", rows) if rows else ""


def _configurations(runs: Sequence[Run]) -> str:
    """The settings that all runs share, once, and the other settings of each run; of two, the difference has them."""
    shared = dict(set.intersection(*(set(run.settings.items()) for run in runs))) if len(runs) > 1 else {}
    of_all = {key: value for key, value in runs[0].settings.items() if key in shared}
    lists = {"Configuration that all runs share": of_all}
    for run in runs if len(runs) != 2 else ():
        lists[f"Configuration of {run.name}"] = {k: value for k, value in run.settings.items() if k not in shared}
    return "".join(
        details(escape(title), [f"{escape(key)} = {escape(value)}" for key, value in settings.items()])
        for title, settings in lists.items()
    )


def _curves(runs: Sequence[Run]) -> str:
    """The plots as HTML: one per logged name, under a heading per validation set."""
    names = sorted({name for run in runs for name in run.curves}, key=order)
    several = any(map(set_of, names))
    groups: dict[str, list[str]] = {}
    for name in names:
        drawn = chart({run.name: run.curves.get(name, []) for run in runs}, "step")
        figure = f"<figure>{drawn}<figcaption>{escape(name)}</figcaption></figure>"
        groups.setdefault(_heading(name, several), []).append(figure)
    return "".join(
        f'<h3>{escape(title)}</h3><div class="charts">{"".join(figures)}</div>' for title, figures in groups.items()
    )


def _heading(name: str, several: bool) -> str:
    """The heading under which the plot of a logged name stands."""
    if name.partition("/")[0] not in VALIDATION:
        return "Steps"
    mean = "Validation, mean over the sets" if several else "Validation"
    return f"Validation on {set_of(name)}" if set_of(name) else mean


def _ablation_table(runs: Sequence[Run]) -> str:
    """A table of the settings in which the runs differ, and of their last validation."""
    columns = {setting.name: setting.values for setting in differing([run.settings for run in runs])}
    for key, pattern in (("seed", "-s{}"), ("variant", "{}"), ("name", "{}")):
        values = tuple(run.settings.get(key, "") for run in runs)
        by_name = all(pattern.format(value) in run.name for value, run in zip(values, runs, strict=True))
        if len(set(values)) > 1 and not by_name:
            columns = {key: values, **columns}
    names = _validation_names(runs)
    if not names:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ["run", *columns, *names])
    rows = []
    for index, run in enumerate(runs):
        ends = [number(run.validation[name]) if name in run.validation else "–" for name in names]
        cells = "".join(f"<td>{escape(text)}</td>" for text in [*(c[index] for c in columns.values()), *ends])
        rows.append(f"<tr {anchor(run.name)}><th>{escape(run.name)}</th>{cells}</tr>")
    return f"<h3>Last validation</h3>{table(head, rows)}{over_seeds(runs)}"


def _sweeps(runs: Sequence[Run]) -> str:
    """Validation against every number that the runs differ in."""
    figures = []
    swept = [(setting.name, at) for setting in differing([run.settings for run in runs]) if (at := _numbers(setting))]
    for name, (key, at) in itertools.product(_validation_names(runs), swept):
        points = {
            run.name: [(x, run.validation[name])] for run, x in zip(runs, at, strict=True) if name in run.validation
        }
        if len(points) > 1:
            caption = escape(f"{name} against {key}")
            figures.append(f"<figure>{chart(points, key, lines=False)}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="charts">{"".join(figures[:MOST_SWEEPS])}</div>'


def _numbers(setting: Setting) -> list[float]:
    """The values of a setting, if all are numbers."""
    try:
        return [float(value) for value in setting.values]
    except ValueError:
        return []


def _validation_names(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name in run.validation}, key=order)

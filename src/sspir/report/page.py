"""Build the page: tables and charts as plain HTML, galleries as data for a script that stands in the page itself."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from sspir.metrics.measure import NOISE
from sspir.metrics.table import best_of, heading, number, verdict_text
from sspir.report.ablation import studies
from sspir.report.charts import COLORS, chart
from sspir.report.collect import ResultSet, Run
from sspir.report.html import details, table
from sspir.report.pictures import gallery
from sspir.report.settings import differing
from sspir.report.study import over_seeds, study_section

MOST_SWEEPS = 6  # scatter plots of a setting against a result


def build(results: Sequence[ResultSet], runs: Sequence[Run], title: str, images: int, quality: int) -> str:
    """One HTML text that fetches nothing.

    Args:
        results: measured methods, one section each.
        runs: training runs, one section together.
        title: of the page.
        images: per gallery.
        quality: of the pictures, 1 to 100 (lossless).
    """
    sections, galleries = [], {}
    if len(results) > 1:
        sections.append(_overview(results))
    sections += [study_section(study) for study in studies(results)]
    for index, result in enumerate(results):
        shown = gallery(result, images, quality)
        galleries[f"gallery-{index}"] = {"metrics": result.summary["metrics"], "images": shown}
        sections.append(_result_section(result, f"gallery-{index}", len(shown)))
    if runs:
        sections.append(_runs_section(runs))
    source = files("sspir.report")
    page = (source / "template.html").read_text()
    parts = {
        "TITLE": escape(title),
        "STYLE": (source / "style.css").read_text(),
        "SECTIONS": "\n".join(sections),
        "DATA": json.dumps(galleries).replace("<", "\\u003c"),  # no name or caption can close the script element
        "SCRIPT": (source / "script.js").read_text(),
    }
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


def _overview(results: Sequence[ResultSet]) -> str:
    """All methods of all results in one table: the table of an ablation study, if all measured the same images."""
    methods = {
        f"{result.name}: {method}": cells for result in results for method, cells in result.summary["methods"].items()
    }
    metrics = {name: facts for result in results for name, facts in result.summary["metrics"].items()}
    comparable = all(result.values.keys() == results[0].values.keys() for result in results)
    note = "" if comparable else '<p class="note">Different images: compare methods within one set only.</p>'
    return f"<section><h2>All results</h2>{note}{_method_table(methods, metrics, comparable)}</section>"


def _result_section(result: ResultSet, gallery_id: str, shown: int) -> str:
    summary = result.summary
    warnings = [verdict_text(verdict) for verdict in summary.get("noise_control", []) if not verdict["beaten"]]
    missing = [escape(f"{name}: {reason}") for name, reason in summary.get("unavailable", {}).items()]
    problems = [f"{p['image']} ({p['method']}): {p['problem']}" for p in summary.get("problems", [])]
    parts = [
        f"<section><h2>{escape(result.name)}</h2>",
        *(f'<p class="warning">{escape(text)}</p>' for text in warnings),
        details("Metrics that could not run", missing),
        details("Problems", [escape(text) for text in problems]),
        _method_table(summary["methods"], summary["metrics"]),
        '<p class="note">Mean with 95 % bootstrap interval over the images; the best mean is bold.</p>',
        _comparisons(summary["comparisons"]),
        f'<h3>Images</h3><p class="note">{shown} of {len(result.values)} images: the worst of every method and '
        "metric first.</p>",
        f'<div class="gallery" id="{gallery_id}"></div></section>',
    ]
    return "".join(parts)


def _method_table(methods: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Any], comparable: bool = True) -> str:
    best = {
        name: best_of(facts, {m: cells[name]["mean"] for m, cells in methods.items() if name in cells and comparable})
        for name, facts in metrics.items()
    }
    head = "".join(f"<th>{escape(heading(name, facts))}</th>" for name, facts in metrics.items())
    body = []
    for method, cells in methods.items():
        row = "".join(_value(cells.get(name), best[name] == method) for name in metrics)
        count = max((cell["n"] for cell in cells.values()), default=0)
        kind = ' class="control"' if NOISE in method else ""
        body.append(f"<tr{kind}><th>{escape(method)}</th>{row}<td>{count}</td></tr>")
    return table(f"<th>method</th>{head}<th>images</th>", body)


def _value(cell: Mapping[str, Any] | None, best: bool) -> str:
    if cell is None:
        return "<td>–</td>"
    mean = f"<b>{number(cell['mean'])}</b>" if best else number(cell["mean"])
    if cell["low"] is None:
        return f"<td>{mean}</td>"
    return f"<td>{mean}<small>{number(cell['low'])} … {number(cell['high'])}</small></td>"


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><th>{escape(c['a'])} – {escape(c['b'])}</th><td>{escape(c['metric'])}</td>"
        f"<td>{number(c['gain'])}<small>{number(c['low'])} … {number(c['high'])}</small></td>"
        f"<td>{c['win_rate']:.0%}</td><td>{escape(c['better'] or 'none: not significant')}</td></tr>"
        for c in comparisons
    ]
    if not rows:
        return ""
    head = "<th>methods</th><th>metric</th><th>gain of the first (positive: better)</th><th>wins</th><th>better</th>"
    return f"<details><summary>Differences, image by image</summary>{table(head, rows)}</details>"


def _runs_section(runs: Sequence[Run]) -> str:
    parts = ["<section><h2>Training</h2>"]
    if len(runs) > 1:
        parts.append(_legend([run.name for run in runs]))
    parts.append(_curves(runs))
    parts.append(_ablation_table(runs))
    parts.append(_sweeps(runs))
    parts.append(_configurations(runs))
    return "".join([*parts, "</section>"])


def _configurations(runs: Sequence[Run]) -> str:
    """What all runs share, once, and the rest of each."""
    shared = dict(set.intersection(*(set(run.settings.items()) for run in runs))) if len(runs) > 1 else {}
    of_all = {key: value for key, value in runs[0].settings.items() if key in shared}
    lists = {"Configuration that all runs share": of_all}
    for run in runs:
        lists[f"Configuration of {run.name}"] = {k: value for k, value in run.settings.items() if k not in shared}
    return "".join(
        details(escape(title), [f"{escape(key)} = {escape(value)}" for key, value in settings.items()])
        for title, settings in lists.items()
    )


def _curves(runs: Sequence[Run]) -> str:
    names = sorted({name for run in runs for name in run.curves})
    figures = []
    for name in names:
        series = {run.name: run.curves.get(name, []) for run in runs}
        drawn = chart(series, "step")
        figures.append(f"<figure>{drawn}<figcaption>{escape(name)}</figcaption></figure>")
    return f'<div class="charts">{"".join(figures)}</div>'


def _ablation_table(runs: Sequence[Run]) -> str:
    """What the runs differ in, and where their validation ended."""
    columns = {setting.name: setting.values for setting in differing([run.settings for run in runs])}
    for key in ("seed", "variant", "name"):
        values = tuple(run.settings.get(key, "") for run in runs)
        if len(set(values)) > 1 and not all(value in run.name for value, run in zip(values, runs, strict=True)):
            columns = {key: values, **columns}
    names = sorted({name for run in runs for name in run.curves if name.startswith("val")})
    if not names:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ["run", *columns, *names])
    rows = []
    for index, run in enumerate(runs):
        ends = [number(run.curves[name][-1][1]) if name in run.curves else "–" for name in names]
        cells = "".join(f"<td>{escape(text)}</td>" for text in [*(c[index] for c in columns.values()), *ends])
        rows.append(f"<tr><th>{escape(run.name)}</th>{cells}</tr>")
    return f"<h3>Last validation</h3>{table(head, rows)}{over_seeds(runs)}"


def _sweeps(runs: Sequence[Run]) -> str:
    """Validation against every number that the runs differ in."""
    figures = []
    for setting in differing([run.settings for run in runs]):
        try:
            at = {run.name: float(value) for run, value in zip(runs, setting.values, strict=True)}
        except ValueError:
            continue
        for name in sorted({name for run in runs for name in run.curves if name.startswith("val")}):
            points = {run.name: [(at[run.name], run.curves[name][-1][1])] for run in runs if name in run.curves}
            if len(points) > 1:
                drawn, caption = chart(points, setting.name, lines=False), f"{name} against {setting.name}"
                figures.append(f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="charts">{"".join(figures[:MOST_SWEEPS])}</div>'


def _legend(names: Sequence[str]) -> str:
    items = [
        f'<span><i style="background:{COLORS[i % len(COLORS)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    ]
    return f'<p class="legend">{"".join(items)}</p>'

"""Ablation studies as tables and plots."""

from collections.abc import Sequence
from html import escape

from sspir.evaluation.table import heading, interval_text, number
from sspir.report.ablation import FULL, Row, Study, validations
from sspir.report.charts import forest
from sspir.report.html import table
from sspir.report.runs import Run


def study_section(study: Study) -> str:
    """The ablation table of a sweep, and per metric a plot of the gains."""
    head = "".join(f"<th>{escape(heading(name, dict(facts)))}</th>" for name, facts in study.metrics.items())
    variants = dict.fromkeys(row.variant for rows in study.rows.values() for row in rows)
    body, figures = [], []
    for variant in variants:
        found = {metric: row for metric, rows in study.rows.items() for row in rows if row.variant == variant}
        cells = "".join(_cell(found.get(metric)) for metric in study.metrics)
        body.append(f"<tr><th>{escape(variant)}</th>{cells}<td>{max(row.seeds for row in found.values())}</td></tr>")
    for metric, rows in study.rows.items():
        gains = {
            row.variant: (gain.mean, gain.low, gain.high)
            for row in rows
            if row.gain and (gain := row.gain.gain).low is not None and gain.high is not None
        }
        if gains:
            drawn = forest(gains)
            figures.append(f"<figure>{drawn}<figcaption>{escape(metric)}: gain over {FULL}</figcaption></figure>")
    note = "Mean ± standard deviation over seeds"
    if any(row.gain for rows in study.rows.values() for row in rows):
        note += (
            f"; below it the gain over the full method ({FULL}; positive: better) with its paired 95 % "
            "interval over the images, bold where it excludes zero, on six images or more"
        )
    shown = table(f"<th>variant</th>{head}<th>seeds</th>", body)
    plots = f'<div class="charts">{"".join(figures)}</div>'
    return f'<section><h2>Ablation: {escape(study.title)}</h2>{shown}<p class="note">{note}.</p>{plots}</section>'


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td>–</td>"
    text = number(row.mean) + (f" ± {number(row.spread, row.mean)}" if row.spread is not None else "")
    if row.gain is None:
        return f"<td>{text}</td>"
    gain = row.gain.gain
    words = number(gain.mean) + interval_text(gain.mean, gain.low, gain.high)
    return f"<td>{text}<small>{f'<b>{words}</b>' if row.gain.significant else words}</small></td>"


def over_seeds(runs: Sequence[Run]) -> str:
    """Tables of the last validation of each experiment's variants: mean and spread over seeds."""
    tables = []
    for experiment, of_metrics in validations(runs).items():
        kinds = dict.fromkeys(row.variant for rows in of_metrics.values() for row in rows)
        body = []
        for kind in kinds:
            found = [next((row for row in rows if row.variant == kind), None) for rows in of_metrics.values()]
            seeds = max(row.seeds for row in found if row)
            body.append(f"<tr><th>{escape(kind)}</th>{''.join(map(_cell, found))}<td>{seeds}</td></tr>")
        head = "".join(f"<th>{escape(name)}</th>" for name in of_metrics)
        tables.append(f"<h3>{escape(experiment)}: last validation over seeds, mean ± standard deviation</h3>")
        tables.append(table(f"<th>variant</th>{head}<th>seeds</th>", body))
    return "".join(tables)

"""Ablation studies as tables and plots."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sspir.evaluation.table import heading
from sspir.report.ablation import FULL, Row, Study, by_variant, validations
from sspir.report.charts import forest
from sspir.report.html import table
from sspir.report.runs import Run


def study_section(study: Study) -> str:
    """The ablation table of a sweep, and per metric a plot of the gains."""
    figures = []
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
    shown = _table((heading(name, dict(facts)) for name, facts in study.metrics.items()), study.rows)
    plots = f'<div class="charts">{"".join(figures)}</div>'
    return f'<section><h2>Ablation: {escape(study.title)}</h2>{shown}<p class="note">{note}.</p>{plots}</section>'


def over_seeds(runs: Sequence[Run]) -> str:
    """Tables of the last validation of each experiment's variants: mean and spread over seeds."""
    return "".join(
        f"<h3>{escape(experiment)}: last validation over seeds, mean ± standard deviation</h3>{_table(rows, rows)}"
        for experiment, rows in validations(runs).items()
    )


def _table(heads: Iterable[str], rows: Mapping[str, Sequence[Row]]) -> str:
    """A line per variant, below a heading of each metric."""
    head = "".join(f"<th>{escape(text)}</th>" for text in ("variant", *heads, "seeds"))
    body = [
        f"<tr><th>{escape(name)}</th>{''.join(map(_cell, found))}<td>{max(row.seeds for row in found if row)}</td></tr>"
        for name, found in by_variant(rows).items()
    ]
    return table(head, body)


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td>–</td>"
    text, gain = row.texts()
    if row.gain and row.gain.significant:
        gain = f"<b>{gain}</b>"
    return f"<td>{text}{f'<small>{gain}</small>' if gain else ''}</td>"

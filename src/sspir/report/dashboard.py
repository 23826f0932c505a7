"""A W&B project's page, made by code: a workspace of charts, and a report with the ablations of local runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from sspir.evaluation.table import heading
from sspir.report.ablation import FULL, Row, by_variant, studies, validations
from sspir.report.collect import Collected
from sspir.report.runs import VALIDATION, Run

AXIS = "step"
VARIANT = wr.Config("variant")
HEALTH = ("skipped_steps", "gradient_norm", "lr-AdamW", "images_per_second", "memory_gib")
EVALUATED = ("restored", "processor", "bicubic")  # rows of an evaluation


class Names(NamedTuple):
    """What the charts show.

    Attributes:
        metrics: names of validated metrics without their row: METRIC, and with several sets SET/METRIC.
        losses: logged names.
        pictures: names of images that have panels; may be empty where they are not known.
    """

    metrics: Sequence[str]
    losses: Sequence[str] = ("loss/total",)
    pictures: Sequence[str] = ()


def names_of(runs: Iterable[Run]) -> Names:
    """What local runs have logged."""
    logged = list(dict.fromkeys(name for run in runs for name in run.curves))
    metrics = [name.removeprefix("val/") for name in logged if name.startswith("val/")]
    losses = [name for name in logged if name.startswith("loss/")]
    pictures = sorted({name for run in runs for name in run.panels})
    return Names(metrics, losses or Names.losses, pictures)


def sections(names: Names) -> dict[str, list[Any]]:
    """Title -> panels, for the workspace and for the report."""
    rows = {name: [f"{row}/{name}" for row in VALIDATION] for name in names.metrics}
    spread = {"groupby": VARIANT, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    pictures = [wr.MediaBrowser(title="Panels", media_keys=[f"panels/{name}" for name in names.pictures])]
    return {
        "Validation beside bicubic and the Processor": [
            wr.LinePlot(title=name, x=AXIS, y=y) for name, y in rows.items()
        ],
        "Ablations: mean and standard deviation over seeds": [
            panel
            for name in names.metrics
            for panel in (
                wr.BarPlot(title=f"{name}, last", metrics=[f"val/{name}"], **spread),
                wr.LinePlot(title=f"{name} by variant", x=AXIS, y=[f"val/{name}"], **spread),
            )
        ],
        "Losses": [wr.LinePlot(title=name, x=AXIS, y=[name]) for name in names.losses],
        "Pictures": [
            *(pictures if names.pictures else []),
            wr.WeavePanelSummaryTable(table_name="pictures", layout=wr.Layout(w=24, h=12)),
        ],
        "Evaluations": [
            wr.BarPlot(title=name, metrics=[f"{row}/{name}" for row in EVALUATED]) for name in names.metrics
        ],
        "Health": [wr.LinePlot(title=name, x=AXIS, y=[name]) for name in HEALTH],
    }


def workspace(entity: str, project: str, names: Names) -> ws.Workspace:
    """The charts of a project, section by section."""
    shown = [ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections(names).items()]
    return ws.Workspace(entity=entity, project=project, name="sspir", sections=shown)


def report(entity: str, project: str, names: Names, found: Collected | None) -> wr.Report:
    """The same charts with runs grouped by variant, below the tables of local runs."""
    blocks: list[Any] = [wr.TableOfContents()]
    for title, table in tables(found) if found else ():
        blocks += [wr.H1(title), wr.MarkdownBlock(table)]
    for title, panels in sections(names).items():
        runs = wr.Runset(name="trainings and evaluations", groupby=["config.variant"])
        blocks += [wr.H1(title), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(entity=entity, project=project, title=f"{project}: ablations", blocks=blocks, width="fluid")


def tables(found: Collected) -> list[tuple[str, str]]:
    """Title and Markdown of each ablation table, as `sspir report` computes them."""
    note = (
        f"\n\nMean ± standard deviation over seeds; in brackets the gain over the full method ({FULL}; positive: "
        "better) with its paired 95 % interval over the images, bold where it excludes zero, on six images or more."
    )
    evaluated = [
        (
            f"Ablation: {study.title}",
            _table({heading(name, dict(facts)): study.rows[name] for name, facts in study.metrics.items()}) + note,
        )
        for study in studies(found.results)
    ]
    validated = [
        (f"{experiment}: last validation over seeds, mean ± standard deviation", _table(rows))
        for experiment, rows in validations(found.runs).items()
    ]
    return [*evaluated, *validated]


def _table(rows: Mapping[str, Sequence[Row]]) -> str:
    """Markdown of a table: heading of a metric -> its rows."""
    lines = [["variant", *rows, "seeds"], ["---"] * (len(rows) + 2)]
    for variant, found in by_variant(rows).items():
        lines.append([variant, *map(_cell, found), str(max(row.seeds for row in found if row))])
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    text, gain = row.texts()
    if row.gain and row.gain.significant:
        gain = f"**{gain}**"
    return f"{text} ({gain})" if gain else text

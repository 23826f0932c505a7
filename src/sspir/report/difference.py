"""In what runs differ: every setting, and where they ran, as tables with one column a run."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from sspir.report.html import table
from sspir.report.runs import Run
from sspir.report.settings import Values, unequal

MOST_COLUMNS = 8  # runs; of more, each setting's values are counted
MOST_VALUES = 6  # of a setting that are counted one by one


def difference_section(runs: Sequence[Run]) -> str:
    """The settings that are not the same in all runs, and what is not in their environments; folded for more than two.

    Nothing for a single run.
    """
    parts = {"Settings": unequal([run.config for run in runs])}
    parts["Environment"] = unequal([run.environment for run in runs])
    count = sum(map(len, parts.values()))
    if not count:
        return ""
    names = [run.name for run in runs]
    tables = "".join(f"<h4>{title}</h4>{_table(names, rows)}" for title, rows in parts.items() if rows)
    if len(runs) == 2:
        return f'<h3>{escape(names[0])} and {escape(names[1])}</h3><div class="difference">{tables}</div>'
    title = f"<summary>All that differs between the runs ({count})</summary>"
    return f'<details class="difference">{title}{tables}</details>'


def _table(names: Sequence[str], rows: dict[str, Values]) -> str:
    columns = names if len(names) <= MOST_COLUMNS else [f"values in {len(names)} runs"]
    head = "".join(f"<th>{escape(text)}</th>" for text in ("", *columns))
    body = []
    for key, values in rows.items():
        cells = [_shown(value) for value in values] if len(names) <= MOST_COLUMNS else [_counted(values)]
        name = escape(key).replace(".", ".<wbr>")  # where a long one may break
        body.append(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return table(head, body)


def _shown(value: str | None) -> str:
    return "<em>absent</em>" if value is None else escape(value)


def _counted(values: Values) -> str:
    """The values of many runs, the most frequent first, each with the number of runs that have it."""
    counts = Counter(values).most_common()
    if len(counts) == len(values):
        return f"{len(values)} different values"
    more = f" and {len(counts) - MOST_VALUES} more" if len(counts) > MOST_VALUES else ""
    return ", ".join(f"{_shown(value)} × {count}" for value, count in counts[:MOST_VALUES]) + more

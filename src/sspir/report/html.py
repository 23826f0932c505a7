"""Pieces of HTML that sections of the page are made of."""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from sspir.report.charts import look


def table(head: str, rows: Sequence[str]) -> str:
    """A table that scrolls sideways, of header cells and whole rows."""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def details(title: str, lines: Sequence[str]) -> str:
    """A list that unfolds under its title; nothing for an empty one."""
    if not lines:
        return ""
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<details><summary>{title} ({len(lines)})</summary><ul>{items}</ul></details>"


def warnings(texts: Sequence[str]) -> str:
    """Sentences that nobody should miss, as plain text."""
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in texts)


def legend(names: Sequence[str]) -> str:
    """How lines look, in the order in which a chart has them."""
    items = "".join(f"<span>{_sample(*look(index))}{escape(name)}</span>" for index, name in enumerate(names))
    return f'<p class="legend">{items}</p>'


def _sample(color: str, dashes: str) -> str:
    line = f'<line x1="0" y1="5" x2="22" y2="5" stroke="{color}" stroke-width="4" stroke-dasharray="{dashes}"/>'
    return f'<svg viewBox="0 0 22 10" aria-hidden="true">{line}</svg>'


def anchor(name: str) -> str:
    """The attribute of an element that links to a run of this name lead to."""
    return f'id="run-{escape(name)}"'


def link(name: str, text: str) -> str:
    """A link to what stands on the page about a run."""
    return f'<a href="#run-{quote(name)}">{escape(text)}</a>'

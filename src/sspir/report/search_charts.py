"""Charts of a search as SVG text: parallel coordinates, and bars."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from sspir.report.charts import BOTTOM, COLORS, TOP, WIDTH

TALL, WIDE = 280, 150  # pixels: height of the axes, width between two
MARGIN = 70


class Axis(NamedTuple):
    """An axis of parallel coordinates.

    Attributes:
        name: what it shows.
        log: whether in the logarithm.
    """

    name: str
    log: bool = False


def parallel_coordinates(
    axes: Sequence[Axis], lines: Mapping[str, Mapping[str, Any]], judge: str, end: str, best: Sequence[str]
) -> str:
    """One line per trial over an axis per setting and objective.

    Args:
        axes: from left to right.
        lines: name -> axis -> value: a number or a word.
        judge: axis whose good lines are drawn strongly.
        end: of it that is good, "max" or "min".
        best: names of lines that are coloured.
    """
    scales = [_scale(axis, [line[axis.name] for line in lines.values() if axis.name in line]) for axis in axes]
    places = [MARGIN + WIDE * index for index in range(len(axes))]
    width, height = 2 * MARGIN + WIDE * (len(axes) - 1), TOP + TALL + BOTTOM + 10

    def down(share: float) -> float:
        return TOP + 10 + (1 - share) * (TALL - 20)

    parts = []
    for axis, scale, x in zip(axes, scales, places, strict=True):
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + TALL}" stroke="currentColor" opacity="0.5"/>')
        parts.append(
            f'<text x="{x}" y="{height - 12}" text-anchor="middle">{escape(_short(axis.name))}'
            f"<title>{escape(axis.name)}</title></text>"
        )
        for text, share in scale.marks.items():
            parts.append(f'<text x="{x - 6}" y="{down(share) + 4:.1f}" text-anchor="end">{escape(_short(text))}</text>')
    at = next(index for index, axis in enumerate(axes) if axis.name == judge)
    goodness = {name: scales[at].share(line[judge]) for name, line in lines.items()}
    if end == "min":
        goodness = {name: 1 - share for name, share in goodness.items()}
    for name in sorted(lines, key=lambda name: (name in best, goodness[name])):  # the best on top
        line = lines[name]
        spots = " ".join(
            f"{x},{down(scale.share(line[axis.name])):.1f}"
            for axis, scale, x in zip(axes, scales, places, strict=True)
            if axis.name in line
        )
        look = f'stroke="{COLORS[1]}" stroke-width="2.5"' if name in best else (
            f'stroke="currentColor" stroke-width="1.3" opacity="{0.15 + 0.45 * goodness[name]:.2f}"'
        )  # fmt: skip
        words = ", ".join(f"{key} {value}" for key, value in line.items())
        parts.append(
            f'<polyline points="{spots}" fill="none" {look}><title>{escape(f"{name}: {words}")}</title></polyline>'
        )
    return f'<svg viewBox="0 0 {width} {height}" style="max-width: {width}px" role="img">{"".join(parts)}</svg>'


def bars(shares: Mapping[str, float]) -> str:
    """A bar for each share of 1, the longest first."""
    left, line = 150, 22
    height = TOP + line * len(shares) + TOP
    parts = []
    for index, (name, share) in enumerate(sorted(shares.items(), key=lambda each: -each[1])):
        y, length = TOP + line * index, share * (WIDTH - left - 60)
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(_short(name, 24))}</text>')
        parts.append(
            f'<rect x="{left}" y="{y + 4}" width="{length:.1f}" height="{line - 8}" fill="{COLORS[0]}">'
            f"<title>{escape(name)}: {share:.3f}</title></rect>"
        )
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 15}">{share:.0%}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


class _Scale(NamedTuple):
    """Where values stand on an axis, from 0 at its foot to 1; `marks` are texts beside it, with their places."""

    places: Mapping[Any, float]
    marks: Mapping[str, float]

    def share(self, value: Any) -> float:
        return self.places[value]


def _scale(axis: Axis, values: Sequence[Any]) -> _Scale:
    if any(isinstance(value, str) for value in values):
        words = sorted(set(map(str, values)))
        places = {word: (index + 0.5) / len(words) for index, word in enumerate(words)}
        return _Scale(places, places)
    measures = {value: math.log(value) if axis.log else float(value) for value in values}
    low, high = min(measures.values()), max(measures.values())
    reach = high - low or 1.0
    places = {value: (measure - low) / reach if high > low else 0.5 for value, measure in measures.items()}
    ends = {f"{value:.4g}": places[value] for value in (min(values), max(values))}
    return _Scale(places, ends)


def _short(name: str, most: int = 20) -> str:
    """The end of a long name."""
    return name if len(name) <= most else f"…{name[1 - most :]}"

"""Line charts and scatter plots as SVG text, readable on paper and in the dark."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

# Okabe and Ito's colours, told apart by colour-blind eyes
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
DASHES = ("", "5 3", "1.5 2.5", "8 3 1.5 3")
"""Of lines: the first eight are whole, the next eight have the same colours and the second dashes, and so on."""
WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 34
MOST_POINTS = 250  # per line: more are averaged in bins of equal length

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]


def chart(series: Mapping[str, Points], x_label: str, lines: bool = True) -> str:
    """One chart.

    Args:
        series: name -> (x, y) points, sorted by x; looks follow the order.
        x_label: under the axis.
        lines: join the points.
    """
    thinned = {name: thin(points) for name, points in series.items()}
    everything = [point for points in thinned.values() for point in points]
    x_ticks = ticks([x for x, _ in everything])
    y_ticks = ticks([y for _, y in everything])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x_ticks, y_ticks, x_label, place)]
    for index, (name, points) in enumerate(thinned.items()):
        color, dashes = look(index)
        spots = [place(*point) for point in points]
        if lines and len(spots) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8" '
                f'stroke-dasharray="{dashes}"><title>{escape(name)}</title></polyline>'
            )
        if not lines or len(spots) <= 30:
            for (x, y), (value_x, value_y) in zip(spots, points, strict=True):
                text = f"{escape(name)}: {value_x:g}, {value_y:.5g}"
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"><title>{text}</title></circle>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def look(index: int) -> tuple[str, str]:
    """Colour and dashes of a chart's line, by its place among the others."""
    return COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]


def forest(rows: Mapping[str, tuple[float, float, float]]) -> str:
    """Means with their intervals, one line each, against zero.

    Args:
        rows: name -> (mean, low, high).
    """
    left, line = 150, 20
    height = TOP + BOTTOM + line * len(rows)
    x_ticks = ticks([0.0, *(value for values in rows.values() for value in values)])

    def across(x: float) -> float:
        return left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - left - RIGHT)

    parts = []
    for tick, text in zip(x_ticks, labels(x_ticks), strict=True):
        x, style = across(tick), 'stroke="currentColor"' if abs(tick) < 1e-12 else 'class="grid"'
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" {style}/>')
        parts.append(f'<text x="{x:.1f}" y="{height - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    for index, (name, (mean, low, high)) in enumerate(rows.items()):
        y = TOP + line * (index + 0.5)
        title = f"<title>{escape(name)}: {mean:.5g} [{low:.5g}, {high:.5g}]</title>"
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        ends = f'x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line {ends} stroke="{COLORS[0]}" stroke-width="1.8">{title}</line>')
        parts.append(f'<circle cx="{across(mean):.1f}" cy="{y:.1f}" r="4" fill="{COLORS[0]}">{title}</circle>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def thin(points: Points) -> Points:
    """At most MOST_POINTS points: means over neighbours, so that noise is averaged and not sampled."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / MOST_POINTS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in bins]


def ticks(values: Sequence[float], count: int = 4) -> list[float]:
    """Round numbers that enclose the values, about `count` steps apart."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    start = math.floor(low / step + 1e-9)
    end = math.ceil(high / step - 1e-9)
    return [index * step for index in range(start, end + 1)]


def labels(ticks: Sequence[float], digits: int = 4) -> list[str]:
    """Ticks as text, with as many digits more as it takes to tell them apart."""
    step = ticks[1] - ticks[0]
    while digits < 15 and any(abs(float(f"{tick:.{digits}g}") - tick) > 0.01 * step for tick in ticks):
        digits += 1
    return [f"{tick:.{digits}g}" for tick in ticks]


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, place: Place) -> str:
    parts = []
    for tick, text in zip(y_ticks, labels(y_ticks), strict=True):
        _, y = place(x_ticks[0], tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in zip(x_ticks, labels(x_ticks, 6), strict=True):
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)

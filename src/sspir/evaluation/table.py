"""A summary as text: the table for the terminal, and sentences about which differences are significant."""

from collections.abc import Mapping
from typing import Any

from sspir.evaluation.measure import NOISE
from sspir.evaluation.statistics import SMALLEST_N, STUDENT, orient

COST = ("CPU s", "parameters", "MACs")
ARROWS = {True: "↑", False: "↓", None: "→"}


def heading(name: str, facts: dict[str, Any]) -> str:
    """Name of a metric with its direction: ↑ higher is better, ↓ lower is better, →1 best at 1."""
    ideal = facts["ideal"]
    return name + (f" →{ideal:g}" if ideal is not None else f" {ARROWS[facts['higher_is_better']]}")


def number(value: float, like: float | None = None) -> str:
    """A value with four decimals, from 10 on with two, as tables of this field print it.

    Args:
        value: the number.
        like: the number beside which it stands, such as a mean beside its spread: it takes the decimals of that one.
    """
    return f"{value:.4f}" if abs(value if like is None else like) < 10 else f"{value:.2f}"


def interval_text(mean: float, low: float | None, high: float | None) -> str:
    """The ends of a mean's interval, with its decimals; "" where it has none."""
    return "" if low is None or high is None else f" [{number(low, mean)}, {number(high, mean)}]"


def summary_table(summary: dict[str, Any]) -> str:
    """Rows of metrics and columns of methods: mean and 95 % interval, best mean starred, and all that print alike.

    A value of fewer images than the method has, or of a folder with more, says of how many it is.
    """
    methods = list(summary["methods"])
    counts = {method: images_of(summary["methods"][method]) for method in methods}
    lines = [["", *methods]]
    for name, facts in summary["metrics"].items():
        cells = {method: summary["methods"][method].get(name) for method in methods}
        best = best_of(facts, cells)
        texts = [_cell(cell, method in best, counts[method]) for method, cell in cells.items()]
        lines.append([heading(name, facts), *texts])
    lines += [[name, *["not here" for _ in methods]] for name in summary["unavailable"]]
    lines.append(["images", *map(str, counts.values())])
    if cost := summary.get("cost"):
        cells = {method: cost_cells(cost, method) for method in methods}
        lines += [[name, *(cells[method][name] for method in methods)] for name in COST]
        lines.append(["of", *[cost["picture"] for _ in methods]])
    if border := summary["settings"].get("crop_border"):
        lines.append(["crop_border", *[str(border) for _ in methods]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    note = ["* the best mean of those over as many images as any, and all that print alike"]
    return "\n".join(rows + note if any("*" in row for row in rows) else rows)


def images_of(cells: Mapping[str, Mapping[str, Any]]) -> int:
    """How many images of a method were measured: in a folder, whose FID has no interval, there may be more."""
    of_images = [cell["n"] for cell in cells.values() if cell["low"] is not None or cell["n"] < min(STUDENT)]
    return max(of_images or [cell["n"] for cell in cells.values()], default=0)


def cost_cells(cost: Mapping[str, Any], method: str) -> dict[str, str]:
    """What a method costs, in words by `COST`; empty where it is not known."""
    known = {name: value for name, value in cost["methods"].get(method, {}).items() if value is not None}
    return {
        "CPU s": number(known["cpu_seconds"]) if "cpu_seconds" in known else "",
        "parameters": f"{known['parameters']:,}" if "parameters" in known else "",
        "MACs": f"{known['macs'] / 1e9:.1f} G" if "macs" in known else "",
    }


def best_of(facts: dict[str, Any], cells: Mapping[str, Mapping[str, Any] | None]) -> set[str]:
    """The methods whose printed mean is the best, controls aside; none if there are not two to choose from.

    A mean over fewer images than another's is none to choose from: it may lack the hard ones. A ratio has no best mean:
    one near the ideal may be of values far below and far above it, which the paired differences tell apart.
    """
    if facts["ideal"] is not None:
        return set()
    found = {method: cell for method, cell in cells.items() if cell and NOISE not in method}
    most = max((cell["n"] for cell in found.values()), default=0)
    means = {method: cell["mean"] for method, cell in found.items() if cell["n"] == most}
    if len(means) < 2:
        return set()
    best = max(means.values(), key=lambda mean: float(orient(facts, mean)))
    return {method for method, mean in means.items() if number(mean) == number(best)}


def lacking(summary: dict[str, Any]) -> list[str]:
    """A sentence for every metric that was left out, or not measured on some pictures."""
    told = [f"{name} is left out: {reason}" for name, reason in summary["unavailable"].items()]
    for name in summary["metrics"]:
        if failed := [problem for problem in summary["problems"] if problem["metric"] == name]:
            such = f"{failed[0]['image']} of {failed[0]['method']}: {failed[0]['problem']}"
            told.append(f"{name} was not measured on {len(failed)} pictures, such as {such}")
    return told


def comparison_text(summary: dict[str, Any]) -> str:
    """Sentences about significant differences between methods, and about methods that do not beat plain noise."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for comparison in summary["comparisons"]:
        if not comparison["b"].startswith(NOISE):
            pairs.setdefault((comparison["a"], comparison["b"]), []).append(comparison)
    lines = [_pair_text(a, b, found) for (a, b), found in pairs.items()]
    lines += [verdict_text(verdict) for verdict in summary["noise_control"]]
    return "\n".join(lines)


def verdict_text(verdict: dict[str, Any]) -> str:
    """What is to be said about a method and plain noise of its PSNR."""
    return " ".join(filter(None, (_beaten(verdict), verdict.get("no_control"))))


def _beaten(verdict: dict[str, Any]) -> str:
    method, better = verdict["method"], ", ".join(verdict["better"]) or "nothing"
    if verdict["beaten"] is None:
        needed = f"NIQE and one of VIF, HaarPSI, GMSD (metric=all; of compare: --metrics all), on {SMALLEST_N} images"
        return f"{method} is not judged against plain noise: that takes {needed}."
    if verdict["beaten"]:
        return f"{method} beats plain noise of its PSNR on {better}."
    return (
        f"WARNING: {method} does not beat plain noise of its PSNR on NIQE and one of VIF, HaarPSI, GMSD "
        f"(it does on {better}); its sharpness numbers prove nothing."
    )


def _pair_text(a: str, b: str, found: list[dict[str, Any]]) -> str:
    better = [_gain(comparison) for comparison in found if comparison["better"] == a]
    worse = [_gain(comparison) for comparison in found if comparison["better"] == b]
    parts = {"significantly better": "; ".join(better), "significantly worse": "; ".join(worse)}
    open_ = [comparison for comparison in found if comparison["better"] is None]
    for why in dict.fromkeys(map(undecided, open_)):
        parts[why] = ", ".join(comparison["metric"] for comparison in open_ if undecided(comparison) == why)
    return "\n".join([f"{a} against {b}", *(f"  {words}: {text}" for words, text in parts.items() if text)])


def undecided(comparison: Mapping[str, Any]) -> str:
    """Why neither of two methods is called better."""
    n = comparison["n"]
    return "no significant difference" if n >= SMALLEST_N else f"too few images to tell ({n} of at least {SMALLEST_N})"


def _gain(comparison: dict[str, Any]) -> str:
    low, high = sorted((abs(comparison["low"]), abs(comparison["high"])))
    gain = abs(comparison["gain"])
    return (
        f"{comparison['metric']} (by {number(gain)} [{number(low, gain)}, {number(high, gain)}], "
        f"wins {comparison['win_rate']:.0%})"
    )


def _cell(cell: dict[str, Any] | None, best: bool, count: int) -> str:
    if cell is None:
        return "-"
    star = "*" if best else " "
    others = f" (n={cell['n']})" if cell["n"] != count else ""
    return f"{number(cell['mean'])}{star}{interval_text(cell['mean'], cell['low'], cell['high'])}{others}"

"""Build the page: tables and charts as plain HTML, galleries as data for a script in the page."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from sspir.evaluation.measure import BICUBIC, NOISE
from sspir.evaluation.table import COST, best_of, cost_cells, heading, images_of, number, undecided, verdict_text
from sspir.report.ablation import studies
from sspir.report.collect import Collected
from sspir.report.curves import curves_section
from sspir.report.html import details, table, warnings
from sspir.report.pictures import gallery
from sspir.report.results import ResultSet
from sspir.report.search import search_section
from sspir.report.study import study_section
from sspir.report.training import runs_section


def build(found: Collected, title: str, images: int, quality: int, progress: str = "", renewed_after: float = 0) -> str:
    """One HTML text that fetches nothing.

    Args:
        found: measured methods, one section each; training runs, one section together; searches; and what is left out.
        title: of the page.
        images: per gallery.
        quality: of the pictures, 1 to 100 (lossless).
        progress: a section at the top, of a page that is renewed while runs go on.
        renewed_after: seconds after which the page loads itself anew; 0 for never.
    """
    order = list(dict.fromkeys(map(_set_of, found.results)))
    results = sorted(found.results, key=lambda result: order.index(_set_of(result)))  # those of one set together
    sections, galleries = [warnings(found.problems), progress], {}
    if len(results) > 1:
        sections.append(_overview(results))
    sections += [study_section(study) for study in studies(results)]
    sections += [search_section(search, found.places) for search in found.searches]
    if found.curves:
        sections.append(curves_section(found.curves))
    for index, result in enumerate(results):
        shown = gallery(result, images, quality)
        galleries[f"gallery-{index}"] = {"metrics": result.summary["metrics"], "images": shown}
        sections.append(_result_section(result, f"gallery-{index}", len(shown)))
    if found.runs:
        sections.append(runs_section(found.runs))
    source = files("sspir.report")
    page = (source / "template.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": escape(title),
        "RENEWED": f"{renewed_after:g}",
        "STYLE": (source / "style.css").read_text(encoding="utf-8"),
        "SECTIONS": "\n".join(sections),
        "DATA": json.dumps(galleries).replace("<", "\\u003c"),  # no name or caption can close the script element
        "SCRIPT": (source / "script.js").read_text(encoding="utf-8"),
    }
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


def _overview(results: Sequence[ResultSet]) -> str:
    """All methods of all results in one table, those of one set together, where the best are marked."""
    sets: dict[tuple[str, frozenset[str]], dict[str, Mapping[str, Any]]] = {}
    bicubic: dict[tuple[str, frozenset[str]], dict[str, list[str]]] = {}  # the same in every evaluation: shown once
    for result in results:
        key = _set_of(result), frozenset(result.values)
        methods = sets.setdefault(key, {})
        for method, cells in result.summary["methods"].items():
            if method == BICUBIC:
                bicubic.setdefault(key, {}).setdefault(json.dumps(cells), []).append(result.name)
            else:
                methods[f"{result.name}: {method}"] = cells
    for key, rows in bicubic.items():
        for text, names in rows.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            sets[key][f"{names[0]}{more}: {BICUBIC}"] = json.loads(text)
    metrics = {name: facts for result in results for name, facts in result.summary["metrics"].items()}
    note = '<p class="note">Different images: compare methods within one set only.</p>' if len(sets) > 1 else ""
    return f"<section><h2>All results</h2>{note}{_method_table(list(sets.values()), metrics)}</section>"


def _set_of(result: ResultSet) -> str:
    """The benchmark's pictures that were measured, or else the folder of the truth; with the border left out."""
    truths = [str(files["hq"].parent) for files in result.files.values() if "hq" in files]
    benchmark, pictures = result.evaluation.benchmark, result.evaluation.pictures
    measured = f"{benchmark} {pictures}" if pictures or result.trained else min(truths, default="")
    border = result.summary["settings"].get("crop_border")
    return f"{measured}, crop_border={border}" if border else measured


def _result_section(result: ResultSet, gallery_id: str, shown: int) -> str:
    summary = result.summary
    judged = summary.get("noise_control", [])
    verdicts = [verdict_text(verdict) for verdict in judged if not verdict["beaten"] or verdict.get("no_control")]
    missing = [escape(f"{name}: {reason}") for name, reason in summary.get("unavailable", {}).items()]
    problems = _problem_lines(summary.get("problems", []))
    parts = [
        f"<section><h2>{escape(result.name)}</h2>",
        warnings([*result.problems, *verdicts]),
        details("Metrics that could not run", missing),
        details("Problems", problems),
        _method_table([summary["methods"]], summary["metrics"], summary.get("cost", {})),
        '<p class="note">Mean with 95 % interval over the images; the best mean is bold, of those over as many images '
        "as any.</p>",
        _comparisons(summary["comparisons"]),
        f'<h3>Images</h3><p class="note">{shown} of {len(result.values)} images: the worst of every method and '
        "metric first.</p>",
        f'<div class="gallery" id="{gallery_id}"></div></section>',
    ]
    return "".join(parts)


def _problem_lines(problems: Sequence[Mapping[str, str]]) -> list[str]:
    """One line for each different problem of a method, with the images that have it."""
    images: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        images.setdefault((problem["method"], problem["problem"]), []).append(problem["image"])
    return [escape(f"{', '.join(names)} ({method}): {text}") for (method, text), names in images.items()]


def _method_table(
    sets: Sequence[Mapping[str, Mapping[str, Any]]],
    metrics: Mapping[str, Any],
    cost: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Rows of methods, set by set; the best of each set are marked."""
    head = "".join(f"<th>{escape(heading(name, facts))}</th>" for name, facts in metrics.items())
    head += "".join(f"<th>{name}<small>{escape(cost['picture'])}</small></th>" for name in COST if cost)
    body = []
    for methods in sets:
        best = {
            name: best_of(facts, {method: cells.get(name) for method, cells in methods.items()})
            for name, facts in metrics.items()
        }
        for method, cells in methods.items():
            count = images_of(cells)
            row = "".join(_value(cells.get(name), method in best[name], count) for name in metrics)
            row += "".join(f"<td>{text}</td>" for text in cost_cells(cost, method).values()) if cost else ""
            kind = ' class="control"' if NOISE in method else ""
            body.append(f"<tr{kind}><th>{escape(method)}</th>{row}<td>{count}</td></tr>")
    return table(f"<th>method</th>{head}<th>images</th>", body)


def _value(cell: Mapping[str, Any] | None, best: bool, count: int) -> str:
    if cell is None:
        return "<td>–</td>"
    mean = f"<b>{number(cell['mean'])}</b>" if best else number(cell["mean"])
    others = f"<small>n={cell['n']}</small>" if cell["n"] != count else ""
    return f"<td>{mean}{_ends(cell['mean'], cell)}{others}</td>"


def _ends(mean: float, interval: Mapping[str, Any]) -> str:
    low, high = interval["low"], interval["high"]
    return "" if low is None else f"<small>{number(low, mean)} … {number(high, mean)}</small>"


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><th>{escape(c['a'])} – {escape(c['b'])}</th><td>{escape(c['metric'])}</td>"
        f"<td>{number(c['gain'])}{_ends(c['gain'], c)}</td>"
        f"<td>{c['win_rate']:.0%}</td><td>{escape(c['better'] or undecided(c))}</td></tr>"
        for c in comparisons
    ]
    if not rows:
        return ""
    head = "<th>methods</th><th>metric</th><th>gain of the first (positive: better)</th><th>wins</th><th>better</th>"
    return f"<details><summary>Differences, image by image</summary>{table(head, rows)}</details>"

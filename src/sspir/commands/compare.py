"""`sspir compare`: measure any methods' output folders against the truth."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sspir.commands.parser import Parser
from sspir.errors import UserError
from sspir.numbers import COUNT, LIMIT, SEED, counted

if TYPE_CHECKING:
    from torch import Tensor

    from sspir.evaluation.measure import Row
    from sspir.evaluation.pairing import Match
    from sspir.metrics.base import ImageMetric
    from sspir.peers import Peer

MOST_LINES = 20  # about single pictures, on the terminal
EXAMPLES = """examples:
  two methods against the truth, with the bicubic row:
    sspir compare --hq test/HQ --lq test/LQ --method ours=out/ours --method osediff=out/osediff --out results
  file names end differently (photo.png, photox4.png, photo_x4.png, photo_LR4.png):
    sspir compare --hq test/HQ --method ours=out/ours --out results --ignore-scale-suffix
  does it beat plain noise of the same PSNR? (added to the bicubic row, or to a method's pictures)
    sspir compare --hq test/HQ --lq test/LQ --method ours=out/ours --out results --noise-control
    sspir compare --hq test/HQ --method ours=out/ours --method processor=out/p --out results --noise-control processor
  other people's restorers, of which `sspir weights get` brings some; they restore what lies in --lq:
    sspir compare --hq test/HQ --lq test/LQ --method ours=out/ours --peer span --peer mine/x.pth --out results --cost
  photos without a truth:
    sspir compare --method ours=out/ours --method theirs=out/theirs --out results

Numbers are those of the literature: PSNR and SSIM on BT.601 Y of 8-bit pictures. No border is cropped unless
--crop-border says so; tables of classical papers crop as many pixels as the scale. Intervals are 95 % bootstrap
intervals over the images, as wide as Student's t for few (Hesterberg 2015), and Student's t itself for fewer than six;
one image has none. A paired difference is significant if its interval excludes zero, on six images or more. Exit
status: 0 all measured, 1 something was left out (it is named; of groups of metrics what cannot be measured here is
none), 2 bad input.
"""


def run(arguments: list[str]) -> int:
    """Measure, write per_image.csv, images.csv and summary.json, and print the table."""
    options = _parser().parse_args(arguments)
    methods, peers = _checked(options)
    _require_own(options.out)

    import torch
    from tqdm import tqdm

    from sspir.evaluation.costs import costs_of_peers
    from sspir.evaluation.pairing import match, of_other_size
    from sspir.evaluation.peer_pictures import peer_pictures
    from sspir.evaluation.results import Results
    from sspir.evaluation.table import comparison_text, summary_table

    metrics, unavailable = _usable(options)
    if peers:
        methods |= peer_pictures(
            peers, options.lq, options.hq, options.out / "peers", options.device, options.ignore_scale_suffix
        )
    torch.set_num_threads(1)  # images, not operations, are spread over the cores
    results = Results(metrics, unavailable, options.seed, options.crop_border)
    results.peers = {name: peer.record() for name, peer in peers.items()}
    results.noise_base = options.noise_control or ""
    results.cost = costs_of_peers(peers) if options.cost else {}
    matches, unmatched = match(methods, options.hq, options.lq, options.ignore_scale_suffix)
    for lost in unmatched:
        results.add_problem(lost.image, lost.method, lost.problem)
    if unmatched and len(match(methods, options.hq, options.lq, ignore_scale=True)[1]) < len(unmatched):
        sys.stderr.write("Names differ in endings such as _x4; --ignore-scale-suffix pairs them.\n")
    if misfits := of_other_size(matches):  # told before what takes long
        sys.stderr.write(f"{counted(len(misfits), 'picture')} will be left out, such as: {misfits[0]}\n")
    measured = _measure_all(matches, metrics, options.noise_control, options.crop_border, options.workers)
    for rows, problems, found in tqdm(measured, total=len(matches), desc="measuring", unit="image", disable=None):
        results.add(rows, _files(found))
        for method, problem in problems:
            results.add_problem(found.name, method, problem)
    results.measure_folders(methods, options.hq)
    summary = results.write(options.out)
    sys.stdout.write(summary_table(summary) + "\n" + comparison_text(summary) + "\n")
    _warn(summary, options.out)
    if not summary["methods"]:
        raise UserError("Nothing could be measured; the problems above say why.")
    return 1 if results.problems or unavailable.keys() & set(options.metrics) else 0


def _checked(options: Namespace) -> "tuple[dict[str, Path], dict[str, Peer]]":
    """The methods' folders and the peers, of flags that fit each other."""
    methods = _methods(options.method)
    if options.peer and options.lq is None:
        raise UserError("--peer restores what the methods were given; name its folder by --lq.")
    if not options.peer and not methods:
        raise UserError("There is nothing to compare; name a method's folder by --method, or a peer by --peer.")
    peers = _peers(options.peer, methods)
    if options.lq is None and options.noise_control == "bicubic":
        raise UserError("--noise-control adds noise to the bicubic row, which needs --lq; give it, or name a method.")
    if options.noise_control not in (None, "bicubic", *methods, *peers):
        known = ", ".join([*methods, *peers])
        raise UserError(f"--noise-control {options.noise_control} is none of {known}; name one of them.")
    if options.noise_control and options.hq is None:
        raise UserError("--noise-control matches the PSNR, which needs the truth; give --hq.")
    return methods, peers


def _require_own(out: Path) -> None:
    """Refuse a folder with an evaluation, or with files that no comparison has written."""
    from sspir.evaluation.results import FILES, JOURNAL, SUMMARY
    from sspir.files import read_json

    there = [out / name for name in (JOURNAL, *FILES) if (out / name).exists()]
    summary = read_json(out / SUMMARY)
    ours = "comparisons" in summary and "evaluation" not in summary and out / JOURNAL not in there
    if there and not ours:
        raise UserError(f"{there[0]} is there and not of a comparison; choose another --out, or move it away.")


def _peers(names: list[str], methods: "Mapping[str, Path]") -> "dict[str, Peer]":
    if not names:
        return {}
    from sspir.peers import find_peers

    peers = find_peers(names)
    if both := peers.keys() & methods.keys():
        raise UserError(f"The method name {min(both)!r} is taken by a peer; choose another.")
    return peers


def _usable(options: Namespace) -> "tuple[dict[str, ImageMetric], dict[str, str]]":
    """The chosen metrics that can run on these pictures, and name -> reason of the metrics that cannot."""
    from sspir.metrics.base import usable

    cropped = "it reads whole pictures; measure it without --crop-border." if options.crop_border else ""
    metrics, unavailable = usable(load_metrics(options.metrics), cropped)
    if options.hq is None:
        lost = [name for name, metric in metrics.items() if metric.needs_reference]
        unavailable |= {name: "it compares with the truth; give --hq." for name in lost if name in options.metrics}
        metrics = {name: metric for name, metric in metrics.items() if name not in lost}
    return metrics, unavailable


def load_metrics(names: list[str]) -> "dict[str, ImageMetric]":
    """Build metrics by name, or by the name of a group of them (`fast`, `all`, ...).

    Raises:
        UserError: a name is neither.
    """
    from sspir.config.build import build
    from sspir.config.compose import choices, compose_config
    from sspir.metrics.base import metric_of

    groups = choices("metric")
    nodes = {group: compose_config(f"metric/{group}").metric for group in groups}
    known = {name: node for group in nodes.values() for name, node in group.items()}
    chosen: dict[str, ImageMetric] = {}
    for name in names:
        if name not in groups and name not in known:
            listed = ", ".join([*groups, *known])
            raise UserError(f"There is no metric {name!r}; choose among {listed}.")
        for member in nodes[name] if name in groups else [name]:
            chosen[str(member)] = metric_of(build(known[member]))
    return chosen


def _measure_all(
    matches: "list[Match]", metrics: "Mapping[str, ImageMetric]", noise_base: str | None, border: int, workers: int
) -> "Iterator[tuple[list[Row], list[tuple[str, str]], Match]]":
    """Rows and problems of each image, in order; only `workers` images are in memory at a time."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda found: (*_measure_one(found, metrics, noise_base, border), found), matches)


def _measure_one(
    found: "Match", metrics: "Mapping[str, ImageMetric]", noise_base: str | None, border: int
) -> "tuple[list[Row], list[tuple[str, str]]]":
    import torch

    from sspir.evaluation.measure import BICUBIC, measure_image
    from sspir.evaluation.pairing import unequal
    from sspir.images.io import ImageError, read_image

    pictures: dict[str, Tensor] = {}
    problems: list[tuple[str, str]] = []
    wanted = {"hq": found.hq, "lq": found.lq, **found.restored}
    for role, path in wanted.items():
        if path is None:
            continue
        try:
            pictures[role] = read_image(path).tensor()
        except ImageError as error:
            problems.append((role, str(error)))
    hq, lq = pictures.pop("hq", None), pictures.pop("lq", None)
    if found.hq is not None and hq is None:
        return [], problems
    for method in list(pictures):
        if hq is not None and pictures[method].shape != hq.shape:
            size = pictures.pop(method).shape[1:]
            problems.append((method, unequal(found.restored[method], size, hq.shape[1:])))
    if noise_base not in pictures and not (noise_base == BICUBIC and lq is not None):
        noise_base = None
    with torch.inference_mode():
        try:
            return measure_image(metrics, found.name, pictures, hq, lq, noise_base, border), problems
        except UserError as error:
            return [], [*problems, ("hq", str(error))]


def _files(found: "Match") -> dict[str, Path]:
    files = {**found.restored}
    files.update({role: path for role, path in (("hq", found.hq), ("lq", found.lq)) if path is not None})
    return files


def _warn(summary: dict[str, Any], out: Path) -> None:
    from sspir.evaluation.table import lacking

    pictures = [problem for problem in summary["problems"] if not problem["metric"]]
    for problem in pictures[:MOST_LINES]:
        sys.stderr.write(f"problem with {problem['image']} of {problem['method']}: {problem['problem']}\n")
    if len(pictures) > MOST_LINES:
        sys.stderr.write(f"... and {len(pictures) - MOST_LINES} more; {out / 'summary.json'} names all of them.\n")
    sys.stderr.writelines(f"{sentence}\n" for sentence in lacking(summary))


def _methods(given: list[str]) -> dict[str, Path]:
    methods: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--method {text} is not NAME=FOLDER; write for example --method ours=out/ours.")
        if name in methods or name in ("bicubic", "hq", "lq") or "noise@" in name:
            raise UserError(f"The method name {name!r} is taken; choose another.")
        methods[name] = Path(folder)
    return methods


def _parser() -> Parser:
    parser = Parser(
        "sspir compare", "Measure any methods' output folders against the truth, and peers beside them.", EXAMPLES
    )
    add = parser.add_argument
    add("--method", action="append", default=[], metavar="NAME=DIR", help="a method's pictures; repeat it")
    add("--peer", action="append", default=[], metavar="NAME|FILE", help="a peer, which restores --lq; repeat it")
    add("--hq", type=Path, metavar="DIR", help="the truth; without it only no-reference metrics are computed")
    add("--lq", type=Path, metavar="DIR", help="what the methods were given: adds the row 'bicubic'")
    add("--out", type=Path, required=True, metavar="DIR", help="gets per_image.csv, images.csv and summary.json")
    add(
        "--metrics",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="metrics, or groups of them: fast, full_reference, no_reference, all of these (default), learned",
    )
    add("--ignore-scale-suffix", action="store_true", help="pair photo.png with photox4.png, photo_LR4.png, ...")
    add(
        "--noise-control",
        nargs="?",
        const="bicubic",
        metavar="METHOD",
        help="add rows of plain noise at each method's PSNR, over the bicubic row or over METHOD's pictures",
    )
    add("--crop-border", type=LIMIT, default=0, metavar="N", help="pixels at each side that count nowhere (default 0)")
    add("--cost", action="store_true", help="add peers' CPU seconds on one thread, parameters and MACs")
    add("--device", default="auto", metavar="NAME", help="where peers restore: auto (default), cpu, cuda, cuda:1, mps")
    add("--seed", type=SEED, default=0, help="of the bootstrap (default 0)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--workers", type=COUNT, default=cores, help="images measured at a time (default: one a core)")
    return parser

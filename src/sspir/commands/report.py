"""`sspir report`: one HTML page about results and runs that opens anywhere."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sspir.commands.parser import Parser
from sspir.commands.stop import signals_to
from sspir.numbers import LIMIT, QUALITY, Numbers, counted

if TYPE_CHECKING:
    from sspir.report.collect import Collected

SECONDS = Numbers(float, 0.1, 86400.0)
EXAMPLES = """examples:
  what `sspir compare` or `sspir evaluate` wrote:
    sspir report results --out report.html
  a training run, or a whole sweep of them (curves, ablation table, plots against what differs; a search's trials):
    sspir report runs/ssp_ir
  two runs side by side: every setting that differs, code, packages and machine:
    sspir report runs/ssp_ir/none-s0 runs/ssp_ir/no_rgb_loss-s0
  both on one page:
    sspir report runs/ssp_ir results/realsr results/drealsr --images 40
  a page that is renewed while runs go on, with their progress and the time left:
    sspir report --watch runs/ssp_ir

The page holds everything it shows: mail it, open it on a phone, print it. Pictures are packed into it as WebP, so it
grows with --images and --quality.

With --watch the page is written anew whenever a log has grown, and where it is open it loads itself anew, scrolled and
unfolded as it was. Runs may begin later. The command ends when all runs that were named are finished; with a folder of
a sweep, or where a run has stopped, a minute after nothing goes on any more. Its status is 0 if all have finished, 1 if
one has stopped, 130 after Ctrl-C and 143 after SIGTERM; the page it leaves loads itself no more.
"""


def run(arguments: list[str]) -> int:
    """Write the page."""
    options = _parser().parse_args(arguments)
    return _watch(options) if options.watch else _once(options)


def _once(options: argparse.Namespace) -> int:
    from sspir.report.collect import collect

    found = collect(options.paths)
    size = _write(options, found)
    _tell(options, found, size)
    return 0


def _watch(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{options.out} is renewed at most every {options.every:g} s while runs go on; Ctrl-C ends it.\n")
    sys.stdout.flush()
    for path in options.paths:
        if not path.exists():
            sys.stderr.write(f"{path} does not exist yet; waiting for it.\n")
    from sspir.report.runs import STOPPED_RUN
    from sspir.report.watch import watch

    size = 0

    def publish(found: "Collected", progress: str, seconds: float) -> None:
        nonlocal size
        size = _write(options, found, progress, seconds)

    with signals_to(_end):
        found = watch(options.paths, options.every, publish)
    _tell(options, found, size)
    return int(any(run.state == STOPPED_RUN for run in found.all_runs))


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)  # what is written is whole


def _write(options: argparse.Namespace, found: "Collected", progress: str = "", renewed_after: float = 0) -> int:
    """Write the page of what was found; returns its length."""
    from sspir.files import write_bytes
    from sspir.report.page import build

    names = [*(result.name for result in found.results), *(run.name for run in found.runs)]
    folders = dict.fromkeys(path.resolve().name for path in options.paths)
    title = options.title or ", ".join(names if 0 < len(names) <= 4 else folders)
    page = build(found, title, options.images, options.quality, progress, renewed_after)
    write_bytes(options.out, page.encode(errors="backslashreplace"))  # a photo's name may be no UTF-8
    return len(page)


def _tell(options: argparse.Namespace, found: "Collected", size: int) -> None:
    for problem in [*found.problems, *(f"{each.name}: {text}" for each in found.results for text in each.problems)]:
        sys.stderr.write(f"{problem}\n")
    counts = f"{counted(len(found.results), 'result')}, {counted(len(found.runs), 'run')}"
    if found.searches:
        counts += f", {len(found.searches)} searches"
    sys.stdout.write(f"{options.out}: {counts}, {size / 1e6:.1f} MB\n")


def _parser() -> Parser:
    parser = Parser("sspir report", "Make one self-contained HTML page about results and training runs.", EXAMPLES)
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="folders of results or runs, or folders that hold some")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default report.html)")
    add("--title", help="of the page (default: the names of what it shows, of the folders where these are many)")
    add("--images", type=LIMIT, default=20, metavar="N", help="images per gallery, the worst ones (default 20)")
    add("--quality", type=QUALITY, default=92, help="of the pictures: 1 to 100, 100 is lossless (default 92)")
    add("--watch", action="store_true", help="renew the page while runs go on")
    add("--every", type=SECONDS, default=5.0, metavar="SECONDS", help="between two looks of --watch (default 5)")
    return parser

"""`sspir report`: one HTML page about results and runs that opens anywhere."""

import sys
from pathlib import Path

from sspir.commands.parser import Parser
from sspir.numbers import LIMIT, QUALITY

EXAMPLES = """examples:
  what `sspir compare` or `sspir evaluate` wrote:
    sspir report results --out report.html
  a training run, or a whole sweep of them (curves, ablation table, plots against what differs):
    sspir report runs/ssp_ir
  both on one page:
    sspir report runs/ssp_ir results/realsr results/drealsr --images 40

The page holds everything it shows: mail it, open it on a phone, print it. Pictures are packed into it as WebP, so it
grows with --images and --quality.
"""


def run(arguments: list[str]) -> int:
    """Write the page."""
    options = _parser().parse_args(arguments)

    from sspir.files import write_bytes
    from sspir.report.collect import collect
    from sspir.report.page import build

    found = collect(options.paths)
    for problem in [*found.problems, *(f"{each.name}: {text}" for each in found.results for text in each.problems)]:
        sys.stderr.write(f"{problem}\n")
    names = [*(result.name for result in found.results), *(run.name for run in found.runs)]
    folders = dict.fromkeys(path.resolve().name for path in options.paths)
    title = options.title or ", ".join(names if len(names) <= 4 else folders)
    page = build(found, title, options.images, options.quality)
    write_bytes(options.out, page.encode())
    counts = f"{len(found.results)} results, {len(found.runs)} runs"
    sys.stdout.write(f"{options.out}: {counts}, {len(page) / 1e6:.1f} MB\n")
    return 0


def _parser() -> Parser:
    parser = Parser("sspir report", "Make one self-contained HTML page about results and training runs.", EXAMPLES)
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="folders of results or runs, or folders that hold some")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default report.html)")
    add("--title", help="of the page (default: the names of what it shows, of the folders where these are many)")
    add("--images", type=LIMIT, default=20, metavar="N", help="images per gallery, the worst ones (default 20)")
    add("--quality", type=QUALITY, default=92, help="of the pictures: 1 to 100, 100 is lossless (default 92)")
    return parser

"""`sspir data`: the public data sets."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sspir.commands.parser import Parser
from sspir.errors import UserError

if TYPE_CHECKING:
    from sspir.data.public import Download, PublicSet

EXAMPLES = """examples:
  which sets are known:
    sspir data
  where a set comes from, its licence, and the layout it must have:
    sspir data div2k
  is it complete?
    sspir data div2k --check
  fetch it, where that is allowed; an interrupted download goes on:
    sspir data div2k --download

Sets lie below one folder: --root, or the environment variable SSPIR_DATA, or ./data. Exit status: 0 all well, 1 the set
is not what it should be (every difference is named), 2 bad input.
"""


def run(arguments: list[str]) -> int:
    """List, describe, check or download."""
    options = _parser().parse_args(arguments)

    from sspir.config.compose import config_root
    from sspir.data.public import problems, read_public_set

    folder = config_root() / "conf" / "public"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if options.name is None:
        for name in names:
            sys.stdout.write(f"{name:12} {read_public_set(folder / f'{name}.yaml').title}\n")
        return 0
    if options.name not in names:
        raise UserError(f"There is no public set {options.name}; choose one of {', '.join(names)}.")
    described = read_public_set(folder / f"{options.name}.yaml")
    if options.download:
        _download(described, options.root)
    if not (options.check or options.download):
        sys.stdout.write(_description(options.name, described, options.root))
        return 0
    found = list(problems(described, options.root))
    sys.stdout.write("".join(f"{sentence}\n" for sentence in found) or f"{options.name} is complete.\n")
    return 1 if found else 0


def _download(described: "PublicSet", root: Path) -> None:
    if not described.downloads:
        raise UserError(f"This set cannot be fetched by a program. {described.by_hand} See {described.page}.")
    for download in described.downloads:
        _fetch(download, root)


def _fetch(download: "Download", root: Path) -> None:
    from tqdm import tqdm

    from sspir.data.public import fetch

    with tqdm(unit="B", unit_scale=True, desc=download.url.rsplit("/", 1)[-1]) as bar:

        def progress(there: int, total: int) -> None:
            bar.total = total or None
            bar.update(there - bar.n)

        fetch(download, root, progress)


def _description(name: str, described: "PublicSet", root: Path) -> str:
    folders = [f"  {root / path}: {count or 'any number of'} images" for path, count in described.folders.items()]
    how = f"sspir data {name} --download" if described.downloads else described.by_hand
    return "\n".join(
        [
            described.title,
            f"from:    {described.page}",
            f"licence: {described.licence}",
            f"used by: {described.used_by}",
            f"get it:  {how}",
            "layout:",
            *folders,
            "",
        ]
    )


def _parser() -> Parser:
    parser = Parser(
        "sspir data", "Describe, check and download the public data sets that the configurations name.", EXAMPLES
    )
    parser.add_argument("name", nargs="?", help="a set; without one all are listed")
    parser.add_argument("--check", action="store_true", help="count the images and open each one's header")
    parser.add_argument("--download", action="store_true", help="fetch, check and unpack the set")
    default = Path(os.environ.get("SSPIR_DATA", "data"))
    parser.add_argument("--root", type=Path, default=default, help=f"the data folder (default {default})")
    return parser

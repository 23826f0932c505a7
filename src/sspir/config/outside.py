"""Folders of people's own classes and configurations, which they name by SSPIR_PATH or --path."""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from sspir.errors import UserError

VARIABLE = "SSPIR_PATH"


def named() -> dict[str, Path]:
    """The folders that the user named, in order: as they were named, and as absolute paths."""
    texts = os.environ.get(VARIABLE, "").split(os.pathsep)
    return {text: Path(text).expanduser().resolve() for text in texts if text}


def folders() -> list[Path]:
    """The folders that the user named, in order, as absolute paths."""
    return list(named().values())


def take_path(arguments: Sequence[str]) -> list[str]:
    """Put what `--path DIR` names, wherever it stands, before the folders of SSPIR_PATH; child processes inherit it.

    Returns:
        The other arguments.
    """
    parser = argparse.ArgumentParser(prog="sspir", add_help=False, allow_abbrev=False)
    parser.add_argument("--path", action="append", default=[], metavar="DIR")
    options, others = parser.parse_known_args(arguments)
    if options.path:
        places = [*(Path(text).expanduser().resolve() for text in options.path), *folders()]
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(map(str, places)))
    return others


def activate() -> None:
    """Let modules in the folders be imported, before others of their names. Calling it twice does no harm.

    Raises:
        UserError: a folder is not there.
    """
    for folder in reversed(folders()):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}, which {VARIABLE} or --path names; correct it.")
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def is_own(module: str) -> bool:
    """Whether a module, or the package that it is in, stands in one of the folders; nothing is imported to find out."""
    try:
        spec = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    places = (spec.submodule_search_locations or [spec.origin or ""] * spec.has_location) if spec else []
    return bool(places) and all(Path(place).parent.resolve() in folders() for place in places)


def not_found(target: str, use: str, reason: str = "") -> UserError:
    """The sentence for a class or function that cannot be imported: where it was looked for, and how it is found.

    Args:
        target: its dotted name.
        use: what names it.
        reason: of the import.
    """
    module, _, name = target.rpartition(".")
    if module in sys.modules:
        near = get_close_matches(name, dir(sys.modules[module]), 1)
        but = f", but {near[0]}" if near else ""
        lacks = f"the module {module} has no {name}{but}"
        return UserError(f"{target}, {use}, cannot be imported: {lacks}.{_shadowed(module)}")
    places = (
        f"the folders of {VARIABLE} ({', '.join(map(str, folders()))})" if folders() else f"no folder of {VARIABLE}"
    )
    why = f": {reason}" if reason else ""
    return UserError(
        f"{target}, {use}, cannot be imported{why}. It was looked for in sspir, the installed packages and {places}; "
        f"name the folder of its module by {VARIABLE} or --path.{_shadowed(module)}"
    )


def _shadowed(module: str) -> str:
    """A sentence for a module that several folders hold, of which Python knows the first alone; else nothing."""
    top = module.partition(".")[0]
    holders = [str(folder) for folder in folders() if (folder / top).is_dir() or (folder / f"{top}.py").is_file()]
    if len(holders) < 2:
        return ""
    return f" {' and '.join(holders)} each hold a module {top}, and the first counts: rename the others."

"""The house: every file stands in a room of CONTRIBUTING's table, and imports go down that table only."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sspir

ROOT = Path(sspir.__file__).parent
TABLE = Path(__file__).parents[1] / "CONTRIBUTING.md"
RESERVED = {"perceptual", "objectives", "peers", "app"}


def room_of(path: Path) -> str:
    """A folder of the package, or a file beside those; "" for the package's own."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imported(path: Path) -> Iterator[str]:
    """Rooms that a file imports from, at its top, in its functions or for its types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path}:{node.lineno} imports relatively")
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for name in [f"{module}.{name}" for name in names] if module else names:
            if name.startswith("sspir."):
                yield name.split(".")[1]


@cache
def rooms() -> dict[str, set[str]]:
    """Room -> other rooms that it imports from."""
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        if room := room_of(path):
            found.setdefault(room, set()).update(set(imported(path)) - {room})
    return found


@cache
def floor(room: str) -> int:
    """The longest chain of imports below a room."""
    return max((1 + floor(below) for below in rooms()[room]), default=0)


def table() -> list[str]:
    return re.findall(r"^\| `(\w+)(?:/|\.py)` \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_map_shows_every_room_and_no_other() -> None:
    assert sorted(table()) == sorted(rooms())


def test_imports_go_down_the_map() -> None:
    order = table()
    up = [
        f"{room} imports {other}"
        for room in rooms()
        for other in rooms()[room]
        if order.index(other) <= order.index(room)
    ]
    assert not up


def test_the_house_is_small() -> None:
    assert len(set(rooms()) - RESERVED) <= 26
    assert max(floor(room) for room in rooms()) <= 11
    assert len(list(ROOT.glob("*.py"))) <= 12


def test_no_file_is_long() -> None:
    long = {str(path): count for path in ROOT.rglob("*.py") if (count := len(path.read_text().splitlines())) > 300}
    assert not long

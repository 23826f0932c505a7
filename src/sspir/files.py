"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOT_APPLICABLE = "not_applicable.txt"  # file in a run's folder that says why its model cannot be
REPLACED = "replaced"  # folder in a run's folder that holds what a run that started anew has found


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes the place of `path` when that has succeeded.

    Its name is always the same, so that what a kill has left is written over; where several processes may write one
    file they need a lock.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")

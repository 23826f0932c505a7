"""The numbers that a run has logged: `metrics.jsonl`, whose step k is "after k updates", as everywhere else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sspir.files import write_text

ROWS = ("val", "bicubic", "structure")
"""What is measured in a validation: what is restored, what it is compared with, the Processor's pictures."""
_VALIDATED = tuple(f"{row}/" for row in ROWS)
HEADER = {"steps": "updates made"}  # the first line; a file of before lacks it and counts its steps from 0


def read_history(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `metrics.jsonl` with their step, of old files too; what a kill has torn is passed over."""
    first = 1
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line == HEADER:
            first = 0
        elif isinstance(line, dict) and isinstance(line.get("step"), int | float):
            yield {**line, "step": line["step"] + first}


def is_validated(name: str) -> bool:
    """Whether a value is a validation's."""
    return name.startswith(_VALIDATED)


def cut_history(path: Path, step: int, due: bool = False) -> None:
    """Drop the lines that will be logged again, and give an old file today's steps.

    Args:
        path: of the file.
        step: the last one that stays.
        due: whether its validation is made again.
    """
    lines = [HEADER, *(line for line in read_history(path) if line["step"] <= step)]
    if due:
        lines = [line for line in lines if line.get("step") != step or not any(map(is_validated, line))]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

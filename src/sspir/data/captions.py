"""Captions: a text beside each image, or one table for all."""

import json
from pathlib import Path
from typing import Protocol

from sspir.errors import UserError


class Captions(Protocol):
    """Finds the caption of a photo."""

    def __call__(self, path: Path, name: str) -> str:
        """The caption of the photo at `path`, called `name` below its root; "" if there is none."""
        ...


def find_captions(source: str | Path | None) -> Captions:
    """Open a source of captions.

    Args:
        source: None for none; "beside" for `photo.txt` beside `photo.jpg`; otherwise a JSON Lines or Parquet file
            with the columns `file_name` (the image's path below its root) and `caption`.

    Raises:
        UserError: if the file is missing or of another form.
    """
    if source is None:
        return lambda path, name: ""
    if str(source) == "beside":
        return _caption_beside
    table = _read_table(Path(source))
    return lambda path, name: table.get(name, "")


def _caption_beside(path: Path, name: str) -> str:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.is_file() else ""


def _read_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"The captions {path} are missing; give a .jsonl or .parquet file, or `beside`.")
    try:
        rows = _read_parquet(path) if path.suffix == ".parquet" else _read_json_lines(path)
        return {str(row["file_name"]): str(row["caption"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The captions {path} cannot be read ({error!r}); every row needs file_name and caption."
        ) from error


def _read_json_lines(path: Path) -> list[dict[str, object]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _read_parquet(path: Path) -> list[dict[str, object]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs pyarrow: pip install pyarrow, or write the captions as .jsonl."
        ) from error
    return list(parquet.read_table(path, columns=["file_name", "caption"]).to_pylist())

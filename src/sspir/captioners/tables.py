"""Captions: a text beside each image, or one table for all."""

import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from sspir.errors import UserError
from sspir.numbers import counted

log = logging.getLogger(__name__)


def same_name(name: str) -> str:
    """A file's name in Unicode's composed form, to be compared: macOS writes accents apart from letters."""
    return unicodedata.normalize("NFC", name)


def whole_characters(text: str) -> str:
    """A text in which half a character, as JSON can name it, is a question mark; no file and no tokenizer takes it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Captions = Callable[[Path, str], str | None]
"""(path of a photo, its name below its root) -> its caption, "" for no words, None if nothing is said of it."""


def find_captions(source: str | Path | None, names: Iterable[str] = ()) -> Captions:
    """Open a source of captions.

    Args:
        source: None for none; "beside" for `photo.txt` beside `photo.jpg`; otherwise a JSON Lines or Parquet file
            with the columns `file_name` (the image's path below its root) and `caption`, null where nothing is said.
        names: of the photos, against which a file is checked; empty for no check.

    Raises:
        UserError: the file is missing, has another form, or has a caption for none of the photos.
    """
    if source is None:
        return _no_caption
    if str(source) == "beside":
        return _caption_beside
    table = _read_table(Path(source))
    _check(Path(source), table, [same_name(name) for name in names])
    return partial(_caption_in, table)


def _no_caption(path: Path, name: str) -> None:
    return None


def _caption_in(table: Mapping[str, str | None], path: Path, name: str) -> str | None:
    return table.get(same_name(name))


def _check(source: Path, table: dict[str, str | None], names: list[str]) -> None:
    """Warn where some names do not match, refuse where all do not; a photo without a caption alone is no error."""
    found = sum(name in table for name in names)
    if found == len(names):
        return
    unmatched = table.keys() - set(names)
    if not found:
        photos = counted(len(names), "photo")
        raise UserError(
            f"The captions {source} fit none of {photos}: the first line is of {min(unmatched, default='none')}, a "
            f"photo is called {names[0]}; file_name must be the path below the folder of photos that is given, with "
            f"its suffix; give the folder that the lines are of."
        )
    others = f"; unmatched lines: first {min(unmatched)}" if unmatched else ""
    lacking = next(name for name in names if name not in table)
    log.warning("captions %s: %d of %d photos have one, not %s%s", source, found, len(names), lacking, others)


def _caption_beside(path: Path, name: str) -> str | None:
    return words_in(path.with_suffix(".txt"))


def words_in(path: Path) -> str | None:
    """The caption that a text file holds; None where there is no such file."""
    return path.read_text(encoding="utf-8-sig", errors="replace").strip() if path.is_file() else None


def _read_table(path: Path) -> dict[str, str | None]:
    if not path.is_file():
        raise UserError(f"The captions {path} are missing; give a .jsonl or .parquet file, or `beside`.")
    try:
        rows = _read_parquet(path) if path.suffix == ".parquet" else _read_json_lines(path)
        return {same_name(str(row["file_name"])): _words(row["caption"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The captions {path} cannot be read ({error!r}); every row needs file_name and caption."
        ) from error


def _words(caption: object) -> str | None:
    return None if caption is None else whole_characters(str(caption))


def _read_json_lines(path: Path) -> list[dict[str, object]]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:  # with the mark that editors on Windows write
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows.append({"file_name": row["file_name"], "caption": row["caption"]})
            except (ValueError, KeyError, TypeError) as error:
                raise broken_line(path, number) from error
    return rows


def broken_line(path: Path, number: int) -> UserError:
    """The error about a line of a table, 1 for the first, that is no JSON with what it must have."""
    return UserError(
        f"Line {number} of {path} cannot be read; it must be JSON with file_name and caption: "
        f'mend it (quotes inside a caption are \\"), or delete the line.'
    )


def _read_parquet(path: Path) -> list[dict[str, object]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs pyarrow: pip install pyarrow, or write the captions as .jsonl."
        ) from error
    return list(parquet.read_table(path, columns=["file_name", "caption"]).to_pylist())

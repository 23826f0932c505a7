"""Caption a folder of photos: no photo is captioned twice, no file is half written, and what a person edits stays."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from sspir.captioners.base import Captioner, CaptionerUnavailableError, caption_each, provenance_of
from sspir.captioners.tables import broken_line, same_name, words_in
from sspir.errors import UserError
from sspir.files import append_bytes, json_line, write_bytes, write_text
from sspir.images.io import MAX_PIXELS, read_image

Row = dict[str, Any]
Look = Callable[[Tensor], Tensor]
BY_HAND = "by hand"


def fingerprint(text: str) -> str:
    """Sixteen digits of a text's hash, by which an edited caption is recognised."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class CaptionTable:
    """Captions and where they came from, as JSON Lines: `file_name`, `caption`, and the captioner's record.

    The file is only appended to, a whole line at a time; of lines about one photo the last counts, until `tidy` leaves
    that alone. A line that a crash has cut off is removed when the file is opened.

    Args:
        path: of the file; `append` makes it.

    Raises:
        UserError: a line cannot be read; it is not dropped, as a person may have slipped while editing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._lines = 0
        if not path.is_file():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            if line.strip():
                self._keep(self._row(line, number))
        if tail := data[len(whole) :]:
            self._mend(tail, len(whole), whole.count(b"\n") + 1)

    def _row(self, line: bytes, number: int) -> Row:
        try:
            row: Row = json.loads(line)
            if isinstance(row["file_name"], str) and isinstance(row["caption"], str):
                return row
        except (ValueError, KeyError, TypeError):
            pass
        raise broken_line(self.path, number)

    def _mend(self, tail: bytes, start: int, number: int) -> None:
        """End a last line that an editor left open, or take away one that a crash cut off before its brace."""
        if not tail.rstrip().endswith(b"}"):
            os.truncate(self.path, start)
            return
        self._keep(self._row(tail, number))
        self._write(b"\n")

    def _keep(self, row: Row) -> None:
        self._lines += 1
        self.rows[same_name(row["file_name"])] = row

    def append(self, row: Row) -> None:
        """Write one photo's line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(json_line(row))
        self._keep(row)

    def tidy(self) -> None:
        """Leave the line that counts of each photo, so that nobody edits another; the file may be a link."""
        if self._lines > len(self.rows):
            with suppress(UserError):  # of a slip of a person who is at it, which the next run names
                self.rows = CaptionTable(self.path).rows  # as edited meanwhile
                write_bytes(self.path.resolve(), b"".join(map(json_line, self.rows.values())))
                self._lines = len(self.rows)

    def _write(self, data: bytes) -> None:
        if not append_bytes(self.path, data):
            raise UserError(f"The disk of {self.path} is full; make room, and the same command goes on.")


def is_edited(row: Row) -> bool:
    """Whether a person wrote the caption, or changed it after it was made."""
    return row.get("made") != fingerprint(row["caption"])


def _written(row: Row) -> str | None:
    """Fingerprint of what was written into PHOTO.txt last; None of a caption that was never made nor written."""
    return row.get("text", row.get("made"))


@dataclass
class FolderCaptioner:
    """Captions photos and writes the captions into a table and, with `beside`, into a text file beside each photo.

    Attributes:
        root: folder of the photos; names in the table are paths below it.
        table: of the folder.
        captioner: describes the photos.
        look: photo (3, h, w) in [0, 1] -> the image that the captioner describes.
        captioner_input: name of that image for the record: "lq", "processor" or "restored".
        shown_by: what made it of the photo, for the record.
        beside: also write PHOTO.txt.
        batch: photos per call of the captioner.
        max_pixels: larger photos are refused.

    Raises:
        UserError: the table is of another folder.
    """

    root: Path
    table: CaptionTable
    captioner: Captioner
    look: Look = lambda photo: photo
    captioner_input: str = "lq"
    shown_by: str = ""
    beside: bool = False
    batch: int = 8
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        root, beside = self.root.resolve(), self.table.path.parent.resolve()
        self._place = {} if self.table.path.resolve().parent == root else {"root": str(root)}
        for row in self.table.rows.values():  # one without a root is of the folder beside, if that has the photo
            other = Path(row.get("root", beside))
            if other != root and (other if "root" in row else other / row["file_name"]).exists():
                raise UserError(f"{self.table.path} has the captions of {other}; give each folder its own --out.")

    def left(self, photos: Sequence[Path], overwrite: bool = False) -> list[Path]:
        """The photos that need a caption; for the others PHOTO.txt is brought up to date.

        Args:
            photos: below the root.
            overwrite: also photos whose caption no person has edited.
        """
        texts = Counter(photo.with_suffix(".txt") for photo in photos if self.beside)
        if twice := next((text for text, count in texts.items() if count > 1), None):
            raise UserError(f"Several photos would share {twice}; rename one, or leave out --beside.")
        missing = []
        for photo in photos:
            row = self._row_of(photo)
            if row is None or (overwrite and not is_edited(row)):
                missing.append(photo)
            elif self.beside:
                self._write_beside(photo, row)
        return missing

    def made_otherwise(self, photos: Sequence[Path]) -> list[Path]:
        """The photos whose caption is another captioner's, or was made under other settings, and is not edited."""
        rows = {photo: self.table.rows.get(same_name(self._name(photo))) for photo in photos}
        now = self._origin().items()
        return [photo for photo, row in rows.items() if row and not is_edited(row) and not now <= row.items()]

    def without_words(self, photos: Sequence[Path]) -> list[Path]:
        """The photos of which the table says nothing: an empty text."""
        rows = self.table.rows
        return [photo for photo in photos if not rows.get(same_name(self._name(photo)), {"caption": "?"})["caption"]]

    def run(self, photos: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """Caption photos; yields each when it is done, with "" or the sentence that says why it has no caption.

        Raises:
            CaptionerUnavailableError: the captioner cannot work at all; captions of before are kept.
        """
        for start in range(0, len(photos), self.batch):
            opened: dict[Path, Tensor] = {}
            for photo in photos[start : start + self.batch]:
                try:
                    opened[photo] = self.look(read_image(photo, self.max_pixels).tensor())
                except CaptionerUnavailableError:
                    raise
                except (UserError, OSError, MemoryError) as error:
                    yield photo, str(error) or type(error).__name__
            for photo, answer in caption_each(self.captioner, opened):
                if isinstance(answer, str):
                    self._record(photo, answer, self._origin())
                yield photo, "" if isinstance(answer, str) else str(answer)

    def _origin(self) -> dict[str, str]:
        by = {"shown_by": self.shown_by} if self.shown_by else {}
        return {**provenance_of(self.captioner), "shown": self.captioner_input, **by}

    def _name(self, photo: Path) -> str:
        return photo.relative_to(self.root).as_posix()

    def _record(self, photo: Path, caption: str, origin: dict[str, str]) -> Row:
        if origin["captioner"] == BY_HAND:
            made = {"text": fingerprint(caption)}
        else:  # PHOTO.txt says what it said, until it is written
            known = _written(self.table.rows.get(same_name(self._name(photo)), {}))
            made = {"made": fingerprint(caption), **({"text": known} if known else {})}
        time = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"file_name": self._name(photo), "caption": caption, **made, **origin, **self._place, "time": time}
        self.table.append(row)
        if self.beside:
            self._write_beside(photo, row)
        return row

    def _row_of(self, photo: Path) -> Row | None:
        """The photo's row of the table, which takes over PHOTO.txt first if a person has edited that."""
        row = self.table.rows.get(same_name(self._name(photo)))
        written = words_in(photo.with_suffix(".txt")) if self.beside else None
        if written is None:
            return row
        if row and (written == row["caption"].strip() or fingerprint(written) == _written(row)):
            return row
        return self._record(photo, written, {"captioner": BY_HAND, "shown": ""})

    def _write_beside(self, photo: Path, row: Row) -> None:
        """Write PHOTO.txt, unless it says the same already, and then into the table that it does."""
        text, caption = photo.with_suffix(".txt"), row["caption"]
        if words_in(text) != caption.strip():
            write_text(text, caption + "\n")
        if _written(row) != fingerprint(caption):
            self.table.append({**row, "text": fingerprint(caption)})

"""What one open page has: its photos, its restoration, its results; all of it is deleted with the page."""

import shutil
import threading
import time
import zipfile
from collections.abc import Container, Sequence
from pathlib import Path
from tempfile import mkdtemp

from sspir.app.markup import looks
from sspir.app.queue import Ticket
from sspir.app.restorer import CAPTIONS, RESTORED, Restored, write_views
from sspir.errors import UserError
from sspir.images.io import read_size

OLD = 3600
"""Seconds after which a page's photos and results are deleted, if nothing is done with it."""


class Session:
    """One open page.

    Attributes:
        files: that were handed in, paths.
        photos: those among them that are photos, of different names.
        refused: name -> why a file is no photo.
        described: whether captions were proposed: a field without words means that there are none.
        ticket: of its last restoration.
        done: results of it, and for each the pictures that are shown of it.
        chosen: number of the result that is shown.
        touched: when something was last done with it.

    Args:
        root: folder for the files of all sessions.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.files: list[str] | None = None
        self.photos: list[Path] = []
        self.refused: dict[str, str] = {}
        self.described = False
        self.ticket: Ticket | None = None
        self.done: list[tuple[Restored, dict[str, Path]]] = []
        self.chosen = 0  # the result that is shown
        self._results: Path | None = None
        self.touched = time.monotonic()

    def take(self, files: Sequence[str]) -> None:
        """Take the files that were handed in; those that are no photos are refused."""
        self.files, self.photos, self.refused, self.described = list(files), [], {}, False
        names: set[str] = set()
        for path in map(Path, files):
            try:
                if path.name in names:
                    raise UserError("another photo has this name; rename one of them.")
                read_size(path)
            except UserError as error:
                self.refused[path.name] = str(error).replace(str(path), path.name)
            else:
                names.add(path.name)
                self.photos.append(path)

    def renewed(self) -> Path:
        """An empty folder for results; those of before are deleted."""
        self.done, self.chosen = [], 0
        if self._results:
            shutil.rmtree(self._results, ignore_errors=True)
        self._results = Path(mkdtemp(dir=self._root))  # whose name nobody can guess
        return self._results

    def show(self, done: Sequence[Restored]) -> None:
        """Take results, and make the pictures that are shown of them."""
        photos = {photo.name: photo for photo in self.photos}
        self.done = [(each, write_views(photos[each.name], each, self._views())) for each in done]

    def looks(self) -> str:
        """Small pictures of the photos, as HTML."""
        return looks(self.photos)

    def pair(self, trust: bool) -> tuple[str, str]:
        """Before and after: the photo at its result's size, and the result or its trust map."""
        restored, views = self.done[self.chosen]
        return str(views["given"]), str(views["trust"] if trust and "trust" in views else restored.path)

    @property
    def busy(self) -> bool:
        """Whether a restoration waits or is at work."""
        return self.ticket is not None and not self.ticket.done

    def _views(self) -> Path:
        assert self._results
        return self._results / "views"

    def archive(self, command: str) -> Path:
        """All results as a zip file, with their captions and the command that makes them again."""
        assert self._results
        path = self._results / "restored.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted((self._results / RESTORED).rglob("*")):
                archive.write(file, file.relative_to(self._results))
            archive.write(self._results / CAPTIONS, CAPTIONS)
            archive.writestr("command.txt", f"{command}\n")
        return path

    def close(self, kept: Container[str] = ()) -> None:
        """End the restoration, and delete everything but the files `kept`: equal ones are one for all pages."""
        if self.ticket:
            self.ticket.cancel()
            self.ticket.wait()
        for path in self.files or ():
            if path not in kept:
                Path(path).unlink(missing_ok=True)
        if self._results:
            shutil.rmtree(self._results, ignore_errors=True)


class Sessions:
    """The open pages, by the id that Gradio gives each.

    Args:
        root: folder for their files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Session:
        """The session of a page; those that nothing was done with for an hour are closed."""
        now = time.monotonic()
        with self._lock:
            session = self._open.setdefault(name, Session(self.root))
            session.touched = now
            old = [name for name, each in self._open.items() if now - each.touched > OLD and not each.busy]
        for each in old:
            self.close(each)
        return session

    def close(self, name: str) -> None:
        """Close a page's session."""
        with self._lock:
            session = self._open.pop(name, None)
            kept = {path for other in self._open.values() for path in other.files or ()}
        if session:
            session.close(kept)

"""What one open page has: its photos, its restoration, its results; all of it is deleted with the page."""

import shutil
import threading
import time
import zipfile
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from sspir.app.markup import looks
from sspir.app.queue import Ticket
from sspir.app.restorer import CAPTIONS, RESTORED, Restored
from sspir.errors import UserError
from sspir.images.io import read_size

OLD = 3600
"""Seconds after which a page's photos and results are deleted, if nothing is done with it."""
EVERY = 60
"""Seconds between two looks at what is old."""


class Session:
    """One open page.

    Attributes:
        files: that were handed in, paths.
        photos: those among them that are photos, of different names.
        refused: name -> why a file is no photo.
        described: whether captions were proposed: a field without words means that there are none.
        ticket: of its last restoration.
        describing: the job that proposes captions.
        uploaded: all files that were ever handed in.
        done: results of the last restoration.
        looks: small pictures of the photos, as HTML.
        closed: whether its page is gone.
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
        self.describing: Ticket | None = None
        self.uploaded: set[str] = set()
        self.done: list[Restored] = []
        self.looks = ""
        self.closed = False
        self.chosen = 0  # the result that is shown
        self._results: Path | None = None
        self.touched = time.monotonic()

    def take(self, files: Sequence[str], max_pixels: int) -> None:
        """Take the files that were handed in; those that are no photos, or have more pixels, are refused."""
        self.uploaded |= {*files}
        self.files, self.photos, self.refused, self.described = list(files), [], {}, False
        names: set[str] = set()
        for path in map(Path, files):
            try:
                if path.name in names:
                    raise UserError("another photo has this name; rename one of them.")
                height, width = read_size(path)
                if height * width > max_pixels:
                    most = f"{max_pixels / 1e6:g} megapixels"
                    raise UserError(f"{width} x {height} pixels are more than the {most} that are taken.")
            except UserError as error:
                self.refused[path.name] = str(error).replace(str(path), path.name)
            else:
                names.add(path.name)
                self.photos.append(path)
        self.looks = looks(self.photos)

    def new_folder(self) -> Path:
        """An empty folder for results, whose name nobody can guess; `begin` takes it."""
        return Path(mkdtemp(dir=self._root))

    def begin(self, ticket: Ticket, folder: Path) -> None:
        """Take a restoration and the folder of its results; the results of before are deleted."""
        before, self._results = self._results, folder
        self.ticket, self.done, self.chosen = ticket, [], 0
        if before:
            shutil.rmtree(before, ignore_errors=True)
        if self.closed:  # meanwhile
            ticket.cancel()
            ticket.wait()
            shutil.rmtree(folder, ignore_errors=True)

    def pair(self, trust: bool) -> tuple[str, str]:
        """Before and after: the photo at its result's size, and the result or its trust map."""
        views = self.done[self.chosen].views
        return str(views["given"]), str(views["trust"] if trust and "trust" in views else views["restored"])

    @property
    def busy(self) -> bool:
        """Whether a restoration waits or is at work."""
        return self.ticket is not None and not self.ticket.done

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
        """End its jobs, and delete everything but the files `kept`: equal ones are one for all pages."""
        self.closed = True
        for ticket in (self.describing, self.ticket):
            if ticket:
                ticket.cancel()
                ticket.wait()
        for path in self.uploaded:
            if path not in kept:
                Path(path).unlink(missing_ok=True)
        if self._results:
            shutil.rmtree(self._results, ignore_errors=True)


class Sessions:
    """The open pages, by the id that Gradio gives each; those that nothing is done with for an hour are closed.

    Args:
        root: folder for their results.
        uploads: folder of the files that are handed in; those that no page has are deleted after an hour, too.
    """

    def __init__(self, root: Path, uploads: Path) -> None:
        self.root, self.uploads = root, uploads
        root.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._tidy, name="tidying", daemon=True).start()

    def of(self, name: str) -> Session:
        """The session of a page."""
        with self._lock:
            session = self._open.setdefault(name, Session(self.root))
            session.touched = time.monotonic()
        return session

    def close(self, name: str) -> None:
        """Close a page's session."""
        with self._lock:
            session = self._open.pop(name, None)
            kept = {path for other in self._open.values() for path in other.uploaded}
        if session:
            session.close(kept)

    def tidy(self, old: float = OLD) -> None:
        """Close pages and delete files that are older than so many seconds."""
        now = time.monotonic()
        with self._lock:
            left = [name for name, each in self._open.items() if now - each.touched > old and not each.busy]
        for name in left:
            self.close(name)
        with self._lock:
            kept = {path for each in self._open.values() for path in each.uploaded}
        for path in self.uploads.rglob("*"):
            with suppress(OSError):
                if path.is_file() and str(path) not in kept and time.time() - path.stat().st_mtime > old:
                    path.unlink()

    def _tidy(self) -> None:
        while True:
            time.sleep(EVERY)
            self.tidy()

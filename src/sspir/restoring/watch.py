"""Folders that photos go on coming into: which of them are whole, and are to be restored now."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sspir.errors import UserError
from sspir.images.io import images_below
from sspir.restoring.jobs import Job, jobs_of, lies_in

STILL = 2.0
"""Seconds for which size and time of a photo must stand still: it is being written until then."""
EVERY = 1.0
"""Seconds between two looks."""

Stamp = tuple[int, int]


class Watch:
    """Looks into folders, and gives each photo once, and again whenever it has changed.

    Args:
        folders: to watch, with all below them.
        out: folder of the results, of which photos that lie in it are left alone.
        form: format of the results, see `jobs_of`.
        tell: called with a sentence about what people should know, once for each thing.
        clock: seconds that only go on.

    Raises:
        UserError: one is no folder.
    """

    def __init__(
        self,
        folders: Sequence[str],
        out: Path,
        form: str | None,
        tell: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = [Path(folder).expanduser() for folder in folders]
        self._roots = list({root.resolve(): root for root in given}.values())
        for root in self._roots:
            if not root.is_dir():
                raise UserError(f"--watch looks into folders, and {root} is none; check the path.")
        self._out, self._form, self._tell, self._clock = out, form, tell, clock
        self._since: dict[Path, tuple[Stamp, float]] = {}  # when a photo was first seen as it is
        self._given: dict[Path, Stamp] = {}
        self._gone: set[Path] = set()
        self._told: set[Path] = set()

    def all_jobs(self, known: Mapping[str, str]) -> list[Job]:
        """A job for each photo that is there, whole or not; for `known` see `jobs_of`.

        Raises:
            UserError: see `jobs_of`.
        """
        return jobs_of([(root, photo) for root, photo, _ in self._photos()], self._out, self._form, known)

    def jobs(self, known: Mapping[str, str]) -> list[Job]:
        """A job for each photo that stands still and was not given as it is before.

        Args:
            known: see `jobs_of`.
        """
        now, before = self._clock(), self._since
        roots: dict[Path, Path] = {}
        self._since = {}
        for root, photo, stamp in self._photos():
            roots[photo] = root
            seen, since = before.get(photo, (stamp, now))
            self._since[photo] = stamp, since if seen == stamp else now
        ready = {
            photo: stamp
            for photo, (stamp, since) in self._since.items()
            if now - since >= STILL and self._given.get(photo) != stamp
        }
        self._given |= ready
        named = jobs_of([(root, photo) for photo, root in roots.items()], self._out, self._form, known) if ready else []
        return [job for job in named if job.source in ready]

    def forget(self, job: Job) -> None:
        """Give a photo once more when it is there again: it was lost before it could be read."""
        self._given.pop(job.source, None)

    def _photos(self) -> Iterator[tuple[Path, Path, Stamp]]:
        """Root, path, and size and time of every photo."""
        first: dict[Path, Path] = {}
        for root in self._roots:
            for photo in self._below(root):
                if lies_in(self._out, photo):
                    continue
                other = first.setdefault(photo.relative_to(root).with_suffix(""), root)
                if other != root and photo not in self._told:
                    self._told.add(photo)
                    self._tell(f"{photo} is left out, as its result would have the name of one of {other}.")
                if other == root:
                    try:
                        status = photo.stat()
                    except OSError:  # renamed or deleted meanwhile
                        continue
                    yield root, photo, (status.st_size, status.st_mtime_ns)

    def _below(self, root: Path) -> list[Path]:
        """Photos below a folder; none while it is lost, as a drive that was pulled out is."""
        try:
            os.listdir(root)  # noqa: PTH208 (an error is all that counts)
            photos = images_below(root)
        except OSError as error:
            if root not in self._gone:
                self._gone.add(root)
                self._tell(f"{root} is lost ({error.strerror}); waiting until it is back.")
            return []
        if root in self._gone:
            self._gone.remove(root)
            self._tell(f"{root} is back.")
        return photos

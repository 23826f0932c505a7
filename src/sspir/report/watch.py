"""Renew a page while runs go on."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sspir.evaluation.curve import CURVE
from sspir.files import NOT_APPLICABLE, REPLACED
from sspir.report.collect import LOGS, RESULTS, Collected, gather, roots_of
from sspir.report.progress import Speeds, ended, progress_section
from sspir.report.runs import RUNNING
from sspir.training.run import CONFIG, ENVIRONMENT, LOCK, SUMMARY, TRAIN_LOG, is_trained_in
from sspir.training.study import DATABASE

PATIENCE = 60.0  # seconds for which nothing goes on, as between two runs of a sweep, before that is the end
SHARE = 0.2  # of one core that looking and writing take at most
_LOOKED_AT = frozenset((*LOGS, *RESULTS, CONFIG, ENVIRONMENT, SUMMARY, TRAIN_LOG, NOT_APPLICABLE, CURVE, DATABASE))

Publish = Callable[[Collected, str, float], None]
"""Writes the page of what was found, with a section about progress, to be loaded again after so many seconds."""


def watch(paths: Sequence[Path], every: float, publish: Publish, patience: float = PATIENCE) -> Collected:
    """Publish the page anew whenever what it shows has changed, until all runs have come to their end.

    In a folder of a sweep another run may begin, and one that has stopped may go on: then the end is when nothing has
    gone on for a while. What ends the watch, a signal too, leaves a page that loads no more.

    Args:
        paths: folders, of which some may not exist yet.
        every: seconds between two looks, or more where a look takes long.
        publish: as described there.
        patience: seconds for which nothing goes on before that is the end.

    Returns:
        What was found last.
    """
    speeds, found, quiet = Speeds(), Collected([], [], []), time.monotonic()
    seen: dict[Path, object] | None = None

    def show(seconds: float) -> None:
        absent = [path for path in paths if not path.exists()]
        publish(found, progress_section(found.all_runs, speeds, absent, seconds), seconds)

    try:
        while True:
            begun = time.monotonic()
            if (now := _state(paths)) != seen:
                with suppress(FileNotFoundError):  # a folder was moved away meanwhile: it is looked at again
                    found, seen = gather(paths), now
                for run in found.all_runs:
                    speeds.look(run)
                if _all_ended(paths, found):
                    return found
                show(every)
                quiet = begun
            nothing = not (found.all_runs or found.results or found.curves or found.searches)
            if nothing or any(run.state == RUNNING for run in found.all_runs):
                quiet = begun
            if begun - quiet > patience:
                return found
            time.sleep(max(every, (time.monotonic() - begun) / SHARE))
    finally:
        show(0)


def _state(paths: Sequence[Path]) -> dict[Path, object]:
    """What changes whenever the page has to: sizes and times of the files that it is made of, and who trains."""
    found: dict[Path, object] = {}
    for root in roots_of(paths):
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name != REPLACED]
            for name in _LOOKED_AT.intersection(files):
                with suppress(FileNotFoundError):  # gone since
                    status = (file := Path(folder, name)).stat()
                    found[file] = status.st_mtime_ns, status.st_size
            if LOCK in files:
                found[Path(folder)] = is_trained_in(Path(folder))
    return found


def _all_ended(paths: Sequence[Path], found: Collected) -> bool:
    """Whether the paths are runs, and all of them have come to their end."""
    folders = {run.folder.resolve() for run in found.all_runs}
    named = all(path.exists() for path in paths) and all(root.resolve() in folders for root in roots_of(paths))
    return named and all(map(ended, found.all_runs))

"""What a run leaves behind that starts anew, or goes back to an earlier checkpoint: kept in its `replaced/`."""

import logging
import math
import shutil
from contextlib import suppress
from pathlib import Path

from sspir.files import REPLACED
from sspir.training.checkpoint import LAST, glance, link_or_copy
from sspir.training.run import CHECKPOINTS, COMPOSED, CONFIG, ENVIRONMENT, METRICS, OWN, SUMMARY

log = logging.getLogger(__name__)


def _new_place(folder: Path) -> Path:
    """A new folder for what is set aside."""
    before = [int(path.name) for path in (folder / REPLACED).glob("*") if path.name.isdigit()]
    place = folder / REPLACED / str(1 + max(before, default=0))
    place.mkdir(parents=True)
    return place


def keep_what_follows(folder: Path, checkpoint: Path, step: int) -> None:
    """Set aside what was made after an earlier checkpoint, where a run goes on from that.

    The last checkpoint, and a best one that is not later, stay under a second name, so that a stop in between loses
    nothing.

    Args:
        folder: of the run.
        checkpoint: that it goes on from, which stays where it is.
        step: of it.
    """
    last = folder / CHECKPOINTS / LAST
    if last.is_file() and last.samefile(checkpoint):
        return
    place = _new_place(folder)
    (place / CHECKPOINTS).mkdir()
    for name in (SUMMARY, METRICS, CONFIG, COMPOSED, ENVIRONMENT):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, place / name)
    (folder / SUMMARY).unlink(missing_ok=True)  # stopped in between, it does not pass for finished
    for path in sorted((folder / CHECKPOINTS).glob("*.ckpt")):
        if step_of(path) > step and path != last:
            shutil.move(path, place / CHECKPOINTS / path.name)
        elif path.name in (LAST, "best.ckpt"):
            link_or_copy(path, place / CHECKPOINTS / path.name)
    for path in sorted((folder / "panels").rglob("*-step*.png")):
        number, panel = path.stem.rpartition("-step")[2], place / path.relative_to(folder)
        if number.isdecimal() and int(number) > step:
            panel.parent.mkdir(parents=True, exist_ok=True)
            path.rename(panel)
    log.warning("Going on from %s; what was trained after it is in %s.", checkpoint, place)


def step_of(checkpoint: Path) -> float:
    """The step of a checkpoint; one that is damaged counts as later than all, and is told where it is loaded."""
    with suppress(Exception):
        return int(glance(checkpoint)["global_step"])
    return math.inf


def set_aside(folder: Path) -> None:
    """Move an earlier run's files away, its summary first: stopped in between, it does not pass for finished."""
    found = [folder / name for name in OWN if (folder / name).exists()]
    if not found:
        return
    place = _new_place(folder)
    for path in found:
        path.rename(place / path.name)
    log.warning("Starting anew, as resume=never says; what was trained in %s before is in %s.", folder, place)

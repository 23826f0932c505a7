"""How far runs are, how fast they go and how long they will take, as far as their logs tell."""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from sspir.report.html import table
from sspir.report.runs import FINISHED, REFUSED, RUNNING, Run

WINDOW = 600.0  # seconds of the past over which a speed is taken: validations are a part of it


class Speeds:
    """Steps per second of runs that are looked at again and again: between two looks, by when a log was written to."""

    def __init__(self) -> None:
        self.seen: dict[Path, list[tuple[float, float]]] = {}  # folder -> (time, step)

    def look(self, run: Run) -> None:
        """Take note of how far a run is."""
        points = self.seen.setdefault(run.folder, [])
        if run.state != RUNNING or (points and run.step < points[-1][1]):  # one that goes on makes steps again
            points.clear()
        if run.state == RUNNING and run.step and (not points or run.step > points[-1][1]):
            points.append((run.logged_at, run.step))
        while len(points) > 2 and points[0][0] < points[-1][0] - WINDOW:
            points.pop(0)

    def of(self, run: Run) -> float:
        """Steps per second, validations and pauses included; 0 where it is not known yet."""
        points = self.seen.get(run.folder, [])
        if len(points) < 2 or points[-1][0] <= points[0][0]:
            return 0.0
        return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])


def progress_section(runs: Sequence[Run], speeds: Speeds, absent: Sequence[Path], every: float) -> str:
    """The section about the runs' progress.

    Args:
        runs: also those that have logged nothing.
        speeds: of the runs.
        absent: paths where there is nothing.
        every: seconds after which the page is renewed; 0 when it no longer is.
    """
    rows = [_row(run, speeds.of(run)) for run in runs]
    shown = table("<th>run</th><th>step</th><th>time left</th><th></th>", rows)
    waiting = "".join(f'<p class="note">{_absence(path, speeds)}: {escape(str(path))}</p>' for path in absent)
    renewed = f"this page renews itself every {every:g} s" if every else "this page is no longer renewed"
    note = f'<p class="note">As of {time.strftime("%Y-%m-%d %H:%M:%S")}; {renewed}.</p>'
    return f"<section><h2>Progress</h2>{shown if rows else ''}{waiting}{note}</section>"


def _absence(path: Path, speeds: Speeds) -> str:
    known = any(folder.is_relative_to(path) for folder in speeds.seen)
    return "No longer there" if known else "Nothing is there yet"


def _row(run: Run, speed: float) -> str:
    step, total = f"{run.step:g}", run.max_steps
    made = f"{step} of {total}" if total else step
    left = duration((total - run.step) / speed) if speed and total else "–"
    pace = f"<small>{speed:.3g} steps/s</small>" if speed else ""
    bar = f'<progress max="{total}" value="{step}"></progress>' if total else ""
    cells = f"<td>{made}<small>{run.state}</small></td><td>{left}{pace}</td><td>{bar}</td>"
    return f"<tr><th>{escape(run.name)}</th>{cells}</tr>"


def ended(run: Run) -> bool:
    """Whether a run has come to its end."""
    return run.state in (FINISHED, REFUSED)


def duration(seconds: float) -> str:
    """A time in its two largest units: "2 d 3 h", "3 h 20 min", "2 min 10 s", "8 s"."""
    whole = max(0, round(seconds))
    found: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, length)
        if count or found or unit == "s":
            found.append(f"{count} {unit}")
    return " ".join(found[:2])

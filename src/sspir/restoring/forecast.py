"""Foretell what restoring photos would do, and how long it would take, without writing anything."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sspir.errors import UserError
from sspir.images.io import read_size
from sspir.images.room import enlarged
from sspir.numbers import counted
from sspir.restoring.jobs import Job
from sspir.restoring.runner import JobRunner
from sspir.sampling.loop import Step

SIDE = 64
"""Pixels of the photo that is restored to see how fast this machine is."""

LONG = 5
"""Seconds after which a trial ends with the step at work, and is not repeated."""

Sides = tuple[int, int]


@dataclass(frozen=True)
class Forecast:
    """What restoring would do.

    Attributes:
        sizes: of every photo that would be restored: its height and width, and the result's.
        refused: photos that would fail, with the sentence.
        seconds: that it would take, about.
        source: what the seconds are taken from.
        rate: seconds per pixel that was restored.
    """

    sizes: list[tuple[Job, Sides, Sides]]
    refused: list[tuple[Job, str]]
    seconds: float
    source: str
    rate: float = 0.0

    def duration(self) -> str:
        """The seconds in words."""
        for seconds, unit in ((3600, "hours"), (60, "minutes")):
            if self.seconds >= 2 * seconds:
                return f"{self.seconds / seconds:.0f} {unit}"
        return counted(round(self.seconds), "second")


def forecast(runner: JobRunner, jobs: Sequence[Job], rate: float | None = None) -> Forecast:
    """Foretell what `runner` would do with the jobs.

    Args:
        runner: which restores nothing.
        jobs: the photos.
        rate: seconds per pixel of a forecast under the same settings. By default those of photos that the journal holds
            as restored with them; where there are none, a small photo is restored.
    """
    scale, most = runner.request.scale, runner.pipeline.max_output_pixels
    sizes: list[tuple[Job, Sides, Sides]] = []
    refused: list[tuple[Job, str]] = []
    for job in jobs:
        try:
            runner.require_place(job)
            given = read_size(job.source)
            if given[0] * given[1] > runner.max_pixels:
                raise UserError(f"its {given[1]} x {given[0]} pixels are more than --max-pixels allows")
            sizes.append((job, given, enlarged(given, scale, most, job.source)))
        except (UserError, OSError) as error:
            refused.append((job, str(error)))
    pixels = sum(_pixels(given, made) for _, given, made in sizes)
    if not pixels:
        return Forecast(sizes, refused, 0.0, "as nothing is left")
    source = "as before"
    if rate is None:
        rate, source = _rate(runner)
    return Forecast(sizes, refused, pixels * rate, source, rate)


def _rate(runner: JobRunner) -> tuple[float, str]:
    """Seconds per pixel, and where they come from."""
    alike = {**runner.request.record, "status": "done"}.items()
    if done := [entry for entry in runner.journal.entries.values() if alike <= entry.items()]:
        pixels = sum(entry["size"][0] * entry["size"][1] for entry in done)
        return sum(entry["seconds"] for entry in done) / pixels, f"as {len(done)} restored before took"
    return _trial(runner), f"as a trial of {SIDE} x {SIDE} pixels took"


class _EnoughError(Exception):
    """A trial has shown how long it would take."""


def _trial(runner: JobRunner) -> float:
    """Seconds per pixel of a small photo's result; of a second one, as the first warms up, where that is short."""
    request, pipeline = runner.request, runner.pipeline
    lq = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    size = pipeline.size_of(lq, None)
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()

        def on_step(step: Step, started: float = started) -> None:
            nonlocal seconds
            seconds = (time.monotonic() - started) * step.total / step.number
            if seconds * step.number > LONG * step.total:
                raise _EnoughError

        with contextlib.suppress(_EnoughError):
            pipeline.restore(lq, [""], size, [0], request.settings, on_step)  # type: ignore[arg-type]  # of both kinds
            seconds = time.monotonic() - started
        if time.monotonic() - started > LONG:
            break
    return seconds * request.samples / (size[0] * size[1])


def _pixels(given: Sides, made: Sides) -> int:
    """Pixels that are restored: a smaller result is reduced from the photo's own size."""
    return max(given[0], made[0]) * max(given[1], made[1])

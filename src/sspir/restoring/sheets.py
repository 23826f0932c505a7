"""What several models made of each photo, side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from sspir.files import Journal
from sspir.images.io import NO_LIMIT, read_image, write_image
from sspir.images.panel import panel
from sspir.images.picture import Picture
from sspir.models.latent import upscale
from sspir.restoring.checks import not_ours
from sspir.restoring.jobs import Job, with_place

SHEETS = "sheets"
"""Folder of the sheets, beside those of the models."""


def sheets_journal(out: Path) -> Journal:
    """Which sheets there are, and of which files."""
    return Journal(out / SHEETS, "sheets.jsonl")


def sheet_jobs(jobs: Sequence[Job], out: Path) -> list[Job]:
    """The jobs with their sheets as results: PNG files, of `a.jpg` beside `a.png` it is `a.jpg.png`."""
    names = [str(PurePosixPath(job.output).with_suffix(".png")) for job in jobs]
    sharing = Counter(names)
    short = [name if sharing[name] == 1 or job.output == name else "" for job, name in zip(jobs, names, strict=True)]
    used, sheets = set(short), []
    for job, output in zip(jobs, short, strict=True):
        if not output:
            output = f"{job.output}.png"
            while output in used:  # a photo may be called a.jpg.png
                output += ".png"
            used.add(output)
        sheets.append(replace(job, target=out / SHEETS / output, output=output))
    return sheets


def _made(job: Job, journal: Journal) -> bool:
    """Whether a model's result is there, and of this photo: --skip-existing leaves those of others."""
    entry = with_place(journal.entries.get(job.output, {}))
    return entry.get("status") == "done" and entry["place"] == job.names()["place"] and job.target.is_file()


def write_sheets(
    out: Path, models: Mapping[str, tuple[Sequence[Job], Journal]], max_pixels: int, overwrite: bool = False
) -> tuple[int, list[str]]:
    """Write a sheet for each photo that a model has restored: what was given, and each result under its model's name.

    All are shown as large as the largest of them. A sheet of the same files is not made again.

    Args:
        out: the sheets go into its folder `SHEETS`.
        models: name -> the jobs, which are the same photos in the same order, and the journal of what became of them.
        max_pixels: of the photos, see `read_image`.
        overwrite: whether files that the journal of the sheets does not know may be replaced.

    Returns:
        How many sheets there are, and a sentence for each whose place a file of somebody's has.
    """
    sheets, count, refused = sheets_journal(out), 0, []
    journals = [journal for _, journal in models.values()]
    first = next(iter(models.values()))[0]
    for sheet, *jobs in zip(sheet_jobs(first, out), *(jobs for jobs, _ in models.values()), strict=True):
        made = {
            name: job.target for name, job, journal in zip(models, jobs, journals, strict=True) if _made(job, journal)
        }
        if not made:
            continue
        if not overwrite and (sentence := not_ours(sheet, sheets, False, 1)):
            refused.append(sentence)
            continue
        count += 1
        written = {name: path.stat().st_mtime_ns for name, path in made.items()}
        line = {**sheet.names(), "results": written}
        if sheets.entries.get(sheet.output) == line and sheet.target.is_file():
            continue
        given = read_image(sheet.source, max_pixels).tensor()
        columns = {"given": given} | {name: read_image(path, NO_LIMIT).tensor() for name, path in made.items()}
        height, width = (max(column.shape[side] for column in columns.values()) for side in (1, 2))
        columns = {name: upscale(column[None], (height, width))[0] for name, column in columns.items()}
        sheets.begin()
        sheets.append({**sheet.names(), "status": "begun"})
        write_image(sheet.target, Picture(np.asarray(panel(columns, sheet.name))))
        sheets.append(line)
    return count, refused

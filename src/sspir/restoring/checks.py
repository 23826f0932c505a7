"""What is refused before anything is restored."""

import os
from collections.abc import Sequence
from pathlib import Path

from sspir.errors import UserError
from sspir.files import Journal
from sspir.images.names import resolved
from sspir.images.room import Size, require_room
from sspir.restoring.jobs import Job, side_files, with_place


def require_own(
    jobs: Sequence[Job], out: Path, journal: Journal, compare: bool, samples: int, may_replace: bool
) -> None:
    """Refuse an output folder that cannot be written, that holds files of others alone, or a file for two photos.

    The result of another photo that is still there is kept, too. A file of others in a folder of ours, or where other
    results have room, is refused by `JobRunner` in its turn.

    Args:
        jobs: what is to be restored.
        out: folder of the results, or the result.
        journal: of the folder.
        compare: see `side_files`.
        samples: see `side_files`.
        may_replace: whether files of others may be there.

    Raises:
        UserError: see above.
    """
    folder = journal.path.parent
    ours = may_replace or (folder == out and journal.path.exists())
    refused = [] if ours else [not_ours(job, journal, compare, samples) for job in jobs]
    if refused and all(refused):
        raise UserError(refused[0])
    for job in jobs:
        if not may_replace and (sentence := belongs_to_another(job, journal)):
            raise UserError(sentence)
    taken = {job.target: job for job in jobs}
    for job in jobs:
        for side in side_files(job.target, compare, samples).values():
            if (other := taken.setdefault(side, job)) is not job:
                raise UserError(
                    f"{side} would be written for {other.source} and for {job.source}; restore them into different "
                    f"folders, or without --format same, --compare and --samples."
                )
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"The folder {folder} cannot be made, as {above} is a file; choose another --out.")
    if not os.access(above, os.W_OK):
        raise UserError(f"The folder {above} cannot be written; choose another --out or change its rights.")


def not_ours(job: Job, journal: Journal, compare: bool, samples: int) -> str:
    """The sentence about a file that lies where one of a job's is written, and is not its own; "" for none."""
    output, made = Path(job.output), journal.made.get(job.output, {})
    before = side_files(output, made.get("compare", False), made.get("samples", 1)).values()  # lines that name no files
    for name in (output, *side_files(output, compare, samples).values()):
        file = job.target.with_name(name.name)
        of = journal.files.get(name.as_posix(), job.output if name in before else None)
        if of != job.output and file.exists():
            whose = f"belongs to {of}" if of else "was not written by this command"
            keep = "keep what is there with --skip-existing" if file == job.target else "move it"
            return f"{file} exists and {whose}; choose another --out, {keep}, or replace it with --overwrite."
    return ""


def left_as_found(jobs: Sequence[Job], journal: Journal) -> str:
    """The sentence that says which results --skip-existing leaves though the journal has not made them; "" for none."""
    found = [str(job.target) for job in jobs if job.output not in journal.files and job.target.exists()]
    if not found:
        return ""
    files = f"{found[0]} is" if len(found) == 1 else f"{len(found)} files, such as {found[0]}, are"
    return f"{files} left as found, not made by this command."


def belongs_to_another(job: Job, journal: Journal) -> str:
    """The sentence that says of which photo, that is still there, a job's result was made; "" if of the job's own."""
    photo = Path(with_place(journal.made.get(job.output, {})).get("place", job.source))
    if not job.target.exists() or not photo.exists() or resolved(photo) == resolved(job.source):
        return ""
    return (
        f"{job.target} is the result of {photo}, not of {job.source}; choose another --out, keep it with "
        f"--skip-existing, or replace it with --overwrite."
    )


def require_room_for_one(jobs: Sequence[Job], scale: float | Size, most: float) -> None:
    """Refuse if every result would be too large; if only some would, each of these is refused in its turn.

    Args:
        jobs: what is to be restored.
        scale: see `require_room`.
        most: see `require_room`.

    Raises:
        UserError: see above.
    """
    refused: list[UserError] = []
    for job in jobs:
        try:
            require_room(job.source, scale, most, job.target.suffix)
        except UserError as error:
            refused.append(error)
        else:
            return
    if refused:
        raise refused[0]

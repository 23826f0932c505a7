"""Turn files, folders and patterns into a list of jobs: what is to be restored, and where each result goes."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sspir.errors import UserError
from sspir.images.encode import file_format
from sspir.images.io import OTHER_SUFFIXES, SUFFIXES, list_images, photo_suffixes, tell_left_out
from sspir.images.names import SAME, place_of, resolved, result_names

JOURNAL = "restore.jsonl"
"""File of JSON lines in the folder of the results: what was done to each photo."""


@dataclass(frozen=True)
class Job:
    """One photo to restore.

    Attributes:
        name: path of the photo below the input that it was found in, with "/" on every system.
        source: path of the photo.
        target: path of the result.
        output: path of the result below the output folder, with "/".
    """

    name: str
    source: Path
    target: Path
    output: str

    def names(self) -> dict[str, str]:
        """Names of photo and result as a journal keeps them; the photo's "place" is the same from every folder."""
        return {"source": str(self.source), "place": str(place_of(self.source)), "output": self.output}

    def content(self) -> dict[str, Any]:
        """Place, size and time of the photo, by which a changed photo is noticed.

        Raises:
            OSError: the photo is gone.
        """
        status = self.source.stat()
        place = str(place_of(self.source))
        return {"place": place, "source_bytes": status.st_size, "source_mtime_ns": status.st_mtime_ns}


def with_place(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line of a journal with the photo's "place", which lines of before have not."""
    return {"place": str(place_of(Path(line["source"]))), **line} if "source" in line else line


def is_file(out: Path) -> bool:
    """Whether an output names a picture to write, not a folder.

    Raises:
        UserError: the picture's format is not one that is written.
    """
    if out.suffix.lower() in OTHER_SUFFIXES and not out.is_dir():
        raise UserError(f"--out {out} ends in {out.suffix}, which is not written; use one of {', '.join(SUFFIXES)}.")
    return out.suffix.lower() in SUFFIXES and not out.is_dir()


def side_files(target: Path, compare: bool, samples: int) -> dict[str, Path]:
    """What is written beside a result: "compare", and of several samples "sample2" ..., "mean", "trust", "spread".

    Args:
        target: of the result, such as `photo.png`; the others are `photo.compare.png` and so on.
        compare: whether what was given and what came out are shown together.
        samples: restorations of the photo.
    """
    suffixes = {"compare": ".png"} if compare else {}
    if samples > 1:
        drawn = [f"sample{number}" for number in range(2, samples + 1)]
        suffixes |= {**dict.fromkeys([*drawn, "mean"], target.suffix), "trust": ".png", "spread": ".npy"}
    return {what: target.with_suffix(f".{what}{suffix}") for what, suffix in suffixes.items()}


def find_jobs(
    inputs: Sequence[str], out: Path, form: str | None = None, known: Mapping[str, str] = MappingProxyType({})
) -> list[Job]:
    """Every photo among the inputs, once.

    Args:
        inputs: files, folders (searched recursively, the tree is mirrored below `out`) and patterns with *, ? or **.
        out: folder of the results, of which photos that already lie in it are left alone; or the result itself, where
            it ends like a picture and the inputs are one photo.
        form: format of the results, one of `sspir.images.names.FORMATS`; by default png, or that of `out`.
        known: result -> photo of earlier runs, see `Journal.photos`: results keep their photos.

    Raises:
        UserError: an input does not exist or holds no photo, two photos of different folders would be written to one
            file, or a result would replace a photo.
    """
    if is_file(out):
        return [_only_job(inputs, out, form)]
    photos: list[tuple[Path, Path]] = []
    for text in inputs:
        own = Path(text).expanduser()
        there = list(_photos(text))
        found = [(root, path) for root, path in there if path == own or not lies_in(out, path)]
        if not found:
            results = f": those in {out} count as results. Name another --out" if there else "; name another input"
            raise UserError(f"{text} holds no photos to restore{results}.")
        photos += found
    return jobs_of(photos, out, form, known)


def jobs_of(found: Sequence[tuple[Path, Path]], out: Path, form: str | None, known: Mapping[str, str]) -> list[Job]:
    """Jobs for photos, each once.

    Args:
        found: folder below which the results mirror the tree, and path, of each photo.
        out: folder of the results.
        form: see `find_jobs`.
        known: see `find_jobs`.

    Raises:
        UserError: two photos of different folders would be written to one file, or a result would replace a photo.
    """
    photos: dict[Path, tuple[Path, Path]] = {}
    for root, path in found:
        photos.setdefault(place_of(path), (path.relative_to(root), path))
    names = result_names(
        {place: (name, _suffix(path, form or "png")) for place, (name, path) in photos.items()},
        {Path(result): Path(photo).name for result, photo in known.items()},
    )
    jobs = [
        Job(name.as_posix(), path, out / names[place], names[place].as_posix())
        for place, (name, path) in photos.items()
    ]
    _keep_sources(jobs)
    return jobs


def placed(jobs: Sequence[Job], out: Path) -> list[Job]:
    """The same jobs with their results in another folder."""
    return [replace(job, target=out / job.output) for job in jobs]


def _only_job(inputs: Sequence[str], out: Path, form: str | None) -> Job:
    """The job of the only photo, whose result is a file of a given name."""
    found = {
        resolved(path): (root, path)
        for text in inputs
        for root, path in _photos(text)
        if path == Path(text).expanduser() or resolved(path) != out.resolve()  # a result of before
    }
    if len(found) != 1:
        raise UserError(f"--out {out} is one picture, but there are {len(found)} photos to restore; name a folder.")
    ((root, path),) = found.values()
    if form and file_format(_suffix(path, form)) != file_format(out.suffix):
        raise UserError(f"--out {out} and --format {form} do not agree; leave one of them out.")
    job = Job(path.relative_to(root).as_posix(), path, out, out.name)
    _keep_sources([job])
    return job


def _keep_sources(jobs: Sequence[Job]) -> None:
    sources = {resolved(job.source) for job in jobs}
    for job in jobs:
        if resolved(job.target) in sources:
            raise UserError(f"{job.target} is itself a photo to restore; choose another --out so that it is kept.")


def lies_in(out: Path, photo: Path) -> bool:
    """Whether a photo lies in the folder of the results, so that it may be one."""
    return out.resolve() in resolved(photo).parents


def _suffix(path: Path, form: str) -> str:
    if form != SAME:
        return f".{form}"
    return path.suffix if path.suffix.lower() in SUFFIXES else ".png"


def _photos(text: str) -> Iterator[tuple[Path, Path]]:
    """Root and path of every photo that an input means."""
    path = Path(text).expanduser()
    if path.is_dir():
        yield from ((path, photo) for photo in list_images(path))
    elif path.exists():
        yield path.parent, path
    elif glob.has_magic(text):
        yield from _matching(path)
    else:
        raise UserError(f"There is no photo or folder {text}; check the path, or quote a pattern that has one.")


def _matching(pattern: Path) -> Iterator[tuple[Path, Path]]:
    """Photos that a pattern means, below the part of it that has no wildcard; named folders are searched."""
    fixed = list(pattern.parts)
    while fixed and glob.has_magic("/".join(fixed)):
        fixed.pop()
    root = Path(*fixed)
    seen: set[Path] = set()  # links may lead to a photo in many ways; the shortest is taken
    left: list[Path] = []
    found = map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207 (Path.glob needs a relative pattern)
    for path in sorted(found, key=lambda path: (len(path.parts), path)):
        inner = list_images(path) if path.is_dir() and pattern.name != "**" else [path]
        for photo in inner:
            if not photo.is_file() or resolved(photo) in seen:
                continue
            seen.add(resolved(photo))
            if photo.suffix.lower() in photo_suffixes() or photo.suffix == pattern.suffix:  # '*.gif' names them itself
                yield root, photo
            else:
                left.append(photo)
    tell_left_out(pattern, left)

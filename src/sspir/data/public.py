"""The public data sets: read their descriptions, check their folders, and download them where that is allowed."""

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from omegaconf import OmegaConf

from sspir.data.image_folder import short_side
from sspir.errors import UserError
from sspir.files import replacing
from sspir.images.io import SUFFIXES, ImageError, list_images

CHUNK = 1 << 20  # bytes


@dataclass
class Download:
    """An archive: its address, its checksum, and which of its folders go where below the data folder."""

    url: str
    md5: str
    unpack: dict[str, str]


@dataclass
class PublicSet:
    """The description `conf/public/NAME.yaml`; `folders` is folder -> number of images, null for any number."""

    title: str
    page: str
    licence: str
    used_by: str
    folders: dict[str, int | None]
    downloads: list[Download] = field(default_factory=list)
    by_hand: str = ""


def read_public_set(path: Path) -> PublicSet:
    """Read a description; unknown keys and wrong types are errors."""
    described = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PublicSet), OmegaConf.load(path)))
    assert isinstance(described, PublicSet)
    return described


def problems(described: PublicSet, root: Path) -> Iterator[str]:
    """Yield a sentence for each way in which the folders below `root` differ from the set's description."""
    for name, expected in described.folders.items():
        try:
            paths = list_images(root / name)
        except ImageError as error:
            yield str(error)
            continue
        if expected is not None and len(paths) != expected:
            yield f"{root / name} holds {len(paths)} images, not {expected}; unpack the set again."
        unreadable = [path for path in paths if short_side(path) == 0]
        for path in unreadable[:10]:
            yield f"{path} is no image that can be opened; copy or download it again."
        if len(unreadable) > 10:
            yield f"{root / name} holds {len(unreadable) - 10} more images that cannot be opened."


def fetch(download: Download, root: Path, progress: Callable[[int, int], None]) -> None:
    """Download an archive, going on where an earlier try stopped, check it, and unpack what belongs to the set.

    Args:
        download: what to get.
        root: the data folder.
        progress: called with the bytes received so far and the bytes of the whole (0 if unknown).

    Raises:
        UserError: no connection, or a checksum that does not fit.
    """
    archive = root / ".downloads" / download.url.rsplit("/", 1)[-1]
    if not archive.exists():
        part = archive.with_name(f"{archive.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            _receive(download.url, part, progress)
        except (http.client.HTTPException, OSError) as error:  # urllib's own are an OSError
            raise UserError(
                f"{download.url} cannot be fetched ({error}); the same command goes on from here."
            ) from error
        with part.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        if md5 != download.md5:
            part.unlink()
            raise UserError(
                f"{download.url} is not the file that was expected (md5 differs); it was deleted, try again."
            )
        part.rename(archive)
    for source, target in download.unpack.items():
        _unpack(archive, source, root / target)


def _receive(url: str, part: Path, progress: Callable[[int, int], None]) -> None:
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        there = file.tell()
        total = there + int(response.headers.get("Content-Length", 0))
        while chunk := response.read(CHUNK):
            file.write(chunk)
            there += len(chunk)
            progress(there, total)
    if there < total:
        raise OSError(f"the connection broke after {there:,} of {total:,} bytes")


def _unpack(archive: Path, source: str, target: Path) -> None:
    """Write the images below a folder of the archive; names that lead out of the target are skipped."""
    target.mkdir(parents=True, exist_ok=True)
    for name, opened in _members(archive):
        path = PurePosixPath(name)
        if not path.is_relative_to(source) or ".." in path.parts or not name.lower().endswith(SUFFIXES):
            continue
        file = target / path.relative_to(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial, opened() as content, partial.open("wb") as copy:
            shutil.copyfileobj(content, copy)


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Name and opener of every file in a zip or tar archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as contents:
            for name in contents.namelist():
                yield name, lambda name=name: contents.open(name)  # type: ignore[misc]  # of a lambda
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                yield member.name, lambda member=member: tar.extractfile(member)  # type: ignore[misc]  # of a lambda

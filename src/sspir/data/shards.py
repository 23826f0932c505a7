"""Photos in a few large tar files instead of many small ones.

A set is a folder with `manifest.json`, `index.npy` and tar files in WebDataset's convention, which other tools can
stream: NUMBER.jpg (any image suffix) and NUMBER.json with file_name and caption. The index says where each photo lies,
so that we read any photo directly: order, resumption and sharing over ranks and workers are those of folders.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sspir.captioners.tables import Captions
from sspir.data.crop import Crop
from sspir.data.cropped import CroppedPhotos, Photo
from sspir.errors import UserError
from sspir.files import json_bytes, write_bytes
from sspir.images.decode import decode_picture
from sspir.images.io import MAX_PIXELS, ImageError, read_image

MANIFEST, INDEX = "manifest.json", "index.npy"
VERSION = 1
END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar file


class Shards(CroppedPhotos):
    """Photos packed by `sspir pack`.

    Args:
        folder: with manifest, index and tar files.
        crop: patches to cut; None leaves photos whole.
        max_pixels: larger photos count as broken.

    Raises:
        UserError: for a folder that is no packed set, or whose tar files are missing or of another length.
    """

    kind = "photos"
    pictures = 1  # of each photo

    def __init__(self, folder: str | Path, crop: Crop | None = None, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(crop)
        self.folder = Path(folder)
        self.max_pixels = max_pixels
        manifest = read_manifest(self.folder)
        if (kind := manifest.get("kind", Shards.kind)) != self.kind:
            raise UserError(f"{self.folder} holds shards of {kind}, not of {self.kind}; choose another dataset for it.")
        self.shards = [self.folder / shard["file"] for shard in manifest["shards"]]
        for path, shard in zip(self.shards, manifest["shards"], strict=True):
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise UserError(f"{path} is missing or not {shard['bytes']} bytes long; copy it again.")
        # memory-mapped: workers share it, and a large set costs nothing until it is read
        self.index = np.load(self.folder / INDEX, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.index)

    def load(self, index: int) -> Photo:
        """Read a photo."""
        described, (pixels,) = self.members(index)
        name = str(described["file_name"])
        return Photo(name, str(described["caption"]), decode_picture(Path(name), pixels, self.max_pixels).pixels)

    def members(self, index: int) -> tuple[dict[str, Any], list[bytes]]:
        """What was packed of a photo: its description, and the files of its pictures.

        Raises:
            ImageError: for a broken shard.
        """
        shard, start, length = (int(number) for number in self.index[index])
        with self.shards[shard].open("rb") as file:
            file.seek(start)
            data = file.read(length)
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                *pictures, text = (_content(tar, member) for member in tar.getmembers())
            if len(pictures) != self.pictures:
                raise ValueError(f"it has {len(pictures)} pictures")
            return json.loads(text), pictures
        except (tarfile.TarError, ValueError) as error:
            raise ImageError(f"{self.shards[shard]} is broken at photo {index} ({error}); copy it again.") from error

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every shard's name and hash, from the manifest."""
        return ((str(shard["file"]), str(shard["sha256"])) for shard in read_manifest(self.folder)["shards"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a packed set: its count, and file, bytes, count and sha256 of each shard."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} has no {MANIFEST}; give a folder that `sspir pack` or `sspir teach` wrote.")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("version") != VERSION:
        raise UserError(f"{path} is of version {manifest.get('version')}, not {VERSION}; pack the photos again.")
    return manifest


class ShardWriter:
    """Writes photos into shards; the manifest comes last, so that an interrupted set is never taken for a whole one.

    Args:
        folder: where to.
        shard_bytes: length of a shard at most, unless a single photo is longer.
        about: what the manifest says beside its shards.
    """

    def __init__(self, folder: Path, shard_bytes: int, about: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.about = dict(about or {})
        self.index: list[tuple[int, int, int]] = []
        self.shards: list[dict[str, int | str]] = []
        self.buffer = io.BytesIO()
        self.buffered = 0  # photos in the buffer

    def add(self, name: str, data: bytes, caption: str) -> None:
        """Append one photo, as it is in its file."""
        self.append({Path(name).suffix.lower(): data}, {"file_name": name, "caption": caption})

    def append(self, pictures: Mapping[str, bytes], described: Mapping[str, Any]) -> None:
        """Append the pictures of one photo.

        Args:
            pictures: suffix, such as ".png" -> content of the file.
            described: file_name, caption and whatever JSON can hold.
        """
        number, files = f"{len(self.index):09d}", io.BytesIO()
        words = json_bytes(described)
        for suffix, content in {**pictures, ".json": words}.items():
            header = tarfile.TarInfo(number + suffix)
            header.size = len(content)
            files.write(header.tobuf(tarfile.USTAR_FORMAT))
            files.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
        if self.buffered and self.buffer.tell() + files.tell() + len(END) > self.shard_bytes:
            self._flush()
        self.index.append((len(self.shards), self.buffer.tell(), files.tell()))
        self.buffer.write(files.getvalue())
        self.buffered += 1

    def take_up(self) -> list[dict[str, Any]]:
        """Go on after the shards that are in the folder, each of which is whole; return the descriptions in them."""
        described = []
        while (path := self.folder / _name(len(self.shards))).is_file():
            data = path.read_bytes()
            starts: dict[str, int] = {}  # number of a photo -> where its first file begins
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    starts.setdefault(member.name.partition(".")[0], member.offset)
                    if member.name.endswith(".json"):
                        described.append(json.loads(_content(tar, member)))
            bounds = pairwise([*starts.values(), len(data) - len(END)])
            self.index += [(len(self.shards), start, end - start) for start, end in bounds]
            self._note(data, len(starts))
        return described

    def close(self) -> None:
        """Write what is left, the index, and at last the manifest."""
        if self.buffered:
            self._flush()
        file = io.BytesIO()
        np.save(file, np.array(self.index, dtype=np.int64).reshape(-1, 3), allow_pickle=False)
        write_bytes(self.folder / INDEX, file.getvalue())
        manifest = {"version": VERSION, **self.about, "count": len(self.index), "shards": self.shards}
        write_bytes(self.folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    def _flush(self) -> None:
        data = self.buffer.getvalue() + END
        write_bytes(self.folder / _name(len(self.shards)), data)
        self._note(data, self.buffered)
        self.buffer, self.buffered = io.BytesIO(), 0

    def _note(self, data: bytes, count: int) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self.shards.append({"file": _name(len(self.shards)), "bytes": len(data), "count": count, "sha256": digest})


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def pack(
    files: Iterator[tuple[Path, str]], captions: Captions, writer: ShardWriter, max_pixels: int = MAX_PIXELS
) -> list[str]:
    """Pack photos, each decoded once to know that it is whole.

    Args:
        files: path and name of each photo.
        captions: finds their captions.
        writer: takes them; it is closed.
        max_pixels: larger photos count as broken.

    Returns:
        One sentence for each photo that was left out.
    """
    broken = []
    for path, name in files:
        try:
            read_image(path, max_pixels)
        except ImageError as error:
            broken.append(str(error))
            continue
        writer.add(name, path.read_bytes(), captions(path, name) or "")
    writer.close()
    return broken


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()

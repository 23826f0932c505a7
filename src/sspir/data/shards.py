"""Photos in a few large tar files instead of many small ones.

A set is a folder with `manifest.json`, `index.npy` and tar files in WebDataset's convention, which other tools can
stream: NUMBER.jpg (any image suffix) and NUMBER.json with file_name and caption. The index says where each photo lies,
so that we read any photo directly: order, resumption and sharing over ranks and workers are those of folders.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sspir.captioners.tables import Captions
from sspir.data.crop import Crop
from sspir.data.cropped import CroppedPhotos, Photo
from sspir.errors import UserError
from sspir.files import write_bytes
from sspir.images.decode import decode_picture
from sspir.images.io import MAX_PIXELS, ImageError, read_image

MANIFEST, INDEX = "manifest.json", "index.npy"
VERSION = 1


class Shards(CroppedPhotos):
    """Photos packed by `sspir pack`.

    Args:
        folder: with manifest, index and tar files.
        crop: patches to cut; None leaves photos whole.
        max_pixels: larger photos count as broken.

    Raises:
        UserError: for a folder that is no packed set, or whose tar files are missing or of another length.
    """

    def __init__(self, folder: str | Path, crop: Crop | None = None, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(crop)
        self.folder = Path(folder)
        self.max_pixels = max_pixels
        manifest = read_manifest(self.folder)
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
        shard, start, length = (int(number) for number in self.index[index])
        with self.shards[shard].open("rb") as file:
            file.seek(start)
            data = file.read(length)
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                image, words = tar.getmembers()
                pixels, text = (_content(tar, member) for member in (image, words))
            described = json.loads(text)
        except (tarfile.TarError, ValueError) as error:
            raise ImageError(f"{self.shards[shard]} is broken at photo {index} ({error}); copy it again.") from error
        name = str(described["file_name"])
        return Photo(name, str(described["caption"]), decode_picture(Path(name), pixels, self.max_pixels).pixels)

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every shard's name and hash, from the manifest."""
        return ((str(shard["file"]), str(shard["sha256"])) for shard in read_manifest(self.folder)["shards"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a packed set: its count, and file, bytes, count and sha256 of each shard."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} has no {MANIFEST}; give a folder that `sspir pack` wrote.")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("version") != VERSION:
        raise UserError(f"{path} is of version {manifest.get('version')}, not {VERSION}; pack the photos again.")
    return manifest


class ShardWriter:
    """Writes photos into shards; the manifest comes last, so that an interrupted set is never taken for a whole one.

    Args:
        folder: where to.
        shard_bytes: a shard is closed when it is this long.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.index: list[tuple[int, int, int]] = []
        self.shards: list[dict[str, int | str]] = []
        self.buffer = io.BytesIO()
        self.buffered = 0  # photos in the buffer

    def add(self, name: str, data: bytes, caption: str) -> None:
        """Append one photo, as it is in its file."""
        start = self.buffer.tell()
        number = f"{len(self.index):09d}"
        words = json.dumps({"file_name": name, "caption": caption}, ensure_ascii=False).encode()
        for member, content in ((f"{number}{Path(name).suffix.lower()}", data), (f"{number}.json", words)):
            header = tarfile.TarInfo(member)
            header.size = len(content)
            self.buffer.write(header.tobuf(tarfile.USTAR_FORMAT))
            self.buffer.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
        self.index.append((len(self.shards), start, self.buffer.tell() - start))
        self.buffered += 1
        if self.buffer.tell() >= self.shard_bytes:
            self._flush()

    def close(self) -> None:
        """Write what is left, the index, and at last the manifest."""
        if self.buffered:
            self._flush()
        file = io.BytesIO()
        np.save(file, np.array(self.index, dtype=np.int64).reshape(-1, 3), allow_pickle=False)
        write_bytes(self.folder / INDEX, file.getvalue())
        manifest = {"version": VERSION, "count": len(self.index), "shards": self.shards}
        write_bytes(self.folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    def _flush(self) -> None:
        self.buffer.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar file
        data = self.buffer.getvalue()
        name = f"shard-{len(self.shards):06d}.tar"
        write_bytes(self.folder / name, data)
        digest = hashlib.sha256(data).hexdigest()
        self.shards.append({"file": name, "bytes": len(data), "count": self.buffered, "sha256": digest})
        self.buffer, self.buffered = io.BytesIO(), 0


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
        writer.add(name, path.read_bytes(), captions(path, name))
    writer.close()
    return broken


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()

"""Photos on disk: find them, read them, and write them so that no half-written file is ever seen."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import features

from sspir.files import write_bytes
from sspir.images.decode import EMPTY, decode_picture, require_file
from sspir.images.decode import read_size as read_size
from sspir.images.encode import encode_picture
from sspir.images.extra import INSTALL, has_library
from sspir.images.extra import SUFFIXES as EXTRA
from sspir.images.picture import ImageError as ImageError
from sspir.images.picture import Picture as Picture
from sspir.moved import old_names_of

log = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of formats that are written, and always read."""
_MORE_SUFFIXES = (".avif", *itertools.chain.from_iterable(EXTRA.values()))
OTHER_SUFFIXES = (
    ".gif", ".apng", *_MORE_SUFFIXES, ".jp2", ".jfif", ".svg", ".psd", ".xcf", ".ico", ".tga", ".exr", ".hdr", ".ppm",
    ".pgm", ".raw", ".pdf", ".mov", ".mp4",
)  # fmt: skip
"""Suffixes of pictures and films that are not written; most are not read from folders, see `photo_suffixes`."""
_COMPANIONS = (
    ".txt", ".json", ".jsonl", ".parquet", ".csv", ".md", ".npy", ".yaml", ".html", ".tar", ".rst", ".xmp",
    ".ini", ".db",
)  # fmt: skip
NO_LIMIT = 2**62
"""Pixels that no image has: for results of our own."""
MAX_PIXELS = 200_000_000
"""Pixels an image may have unless the caller allows more: a guard against decompression bombs."""


def photo_suffixes() -> tuple[str, ...]:
    """Suffixes of the files that are read from folders: those of formats for which there is a library."""
    avif = (".avif",) if features.check("avif") else ()
    return (*SUFFIXES, *avif, *itertools.chain.from_iterable(EXTRA[kind] for kind in EXTRA if has_library(kind)))


def list_images(root: str | Path) -> list[Path]:
    """All image files below a folder, sorted; a folder that links reach twice is read once.

    Other files, except texts and tables, are counted in a line of the log.

    Raises:
        ImageError: if the folder is missing or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise ImageError(f"{root} is not a folder; give a folder with images.")
    files = sorted(_walk(root))
    paths = _images(files)
    if not paths:
        left = _left_out(files)
        raise ImageError(f"{root} holds no images{left and f', but {left}'}; {_taken()}.")
    tell_left_out(root, files)
    return paths


def images_below(root: Path) -> list[Path]:
    """As `list_images`, but a folder without images is no error, and nothing is told.

    Raises:
        OSError: the folder is gone.
    """
    return _images(sorted(_walk(root)))


def _images(files: Iterable[Path]) -> list[Path]:
    suffixes = photo_suffixes()
    return [path for path in files if path.name.lower().endswith(suffixes)]


def _taken() -> str:
    """Which files are read from folders, and how more would be."""
    suffixes = photo_suffixes()
    more = "" if set(_MORE_SUFFIXES) <= set(suffixes) else f", and HEIC, JPEG XL and RAW after {INSTALL}"
    return f"files ending in {', '.join(suffixes)} are taken{more}"


def tell_left_out(root: Path, files: Iterable[Path]) -> None:
    """Log once how many of the files are not read from folders; texts and tables do not count."""
    if left := _left_out(files):
        _warn_once(f"{root}: {left} left out; {_taken()}.")


def _left_out(files: Iterable[Path]) -> str:
    """Describe the files that are not read: "2 .gif, 1 .heic, 3 other files"."""
    suffixes = Counter(path.suffix.lower() for path in files)
    known = {*photo_suffixes(), *_COMPANIONS}
    others = {suffix: count for suffix, count in suffixes.items() if suffix not in known}
    words = [f"{others.pop(suffix)} {suffix}" for suffix in OTHER_SUFFIXES if suffix in others]
    if rest := sum(others.values()):
        words.append(f"{rest} other file{'s' * (rest > 1)}")
    return ", ".join(words)


@cache
def _warn_once(sentence: str) -> None:  # a folder may be listed for several reasons
    log.warning(sentence)


def _walk(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back up, or a second way in
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in names:
            if not name.startswith("."):
                yield Path(folder, name)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read one photo: upright, sRGB, 8 or 16 bits as in the file.

    Args:
        path: PNG, JPEG, WebP, TIFF, BMP, AVIF or still GIF; with the extra `formats` also HEIC, JPEG XL and the RAW
            files of cameras; the content counts, not the name.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: one sentence for a file that is missing, empty, broken, animated, too large, of floating
            point, or no image.
    """
    path = Path(path)
    require_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; check the path and its rights.") from error
    if not data:
        raise ImageError(EMPTY.format(path))
    return decode_picture(path, data, max_pixels)


def write_image(path: str | Path, picture: Picture, quality: int = 95) -> list[str]:
    """Write a picture in the format its suffix names, making missing folders.

    PNG and TIFF keep 16 bits; PNG, TIFF and WebP keep alpha; all but BMP keep EXIF and colour profile.

    Args:
        path: where to; a file there is replaced.
        picture: what to write.
        quality: 1 to 100, of JPEG and WebP; at 100 WebP is lossless.

    Returns:
        One sentence for each thing the format could not hold.

    Raises:
        ImageError: for an unknown suffix, a picture the format cannot hold, or a disk that does not take it.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{path} has no suffix of an image; use one of {', '.join(SUFFIXES)}.")
    try:
        data, lost = encode_picture(picture, path.suffix.lower(), quality)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot hold this picture ({error}); use PNG or TIFF.") from error
    try:
        write_bytes(path, data)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be written: {error.strerror}; see to the disk or choose another folder."
        ) from error
    return lost


__getattr__ = old_names_of(__name__)

"""Decode the bytes of a photo file to a picture: orientation, depth, alpha, colour profile, and what is refused."""

import contextlib
import io
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from sspir.images import png
from sspir.images.colours import eight_bit, picture_of, sixteen_bit
from sspir.images.exif import kept_exif
from sspir.images.extra import ORIENTATION, TOO_DEEP, Still, animated, broken, open_extra, reason
from sspir.images.extra import SUFFIXES as EXTRA
from sspir.images.hdr import GAIN_MAP, Coding, avif_bits, coding_of, holds_gain_map
from sspir.images.kinds import START, describe, kind_of
from sspir.images.limit import unlimited
from sspir.images.picture import FormatError, ImageError, Picture, Pixels

_PHOTOMETRIC, _PLANAR, _EXTRA_SAMPLES = 262, 284, 338  # tags of TIFF
_BLACK_IS_ZERO, _RGB = 1, 2  # photometric interpretations
_MULTIPLIED, _ALPHA = 1, 2  # what an extra sample is
_SUBFILE, _REDUCED = 254, 1  # tag and bit of a TIFF's page that is a preview of another


def decode_picture(path: Path, data: bytes, max_pixels: int) -> Picture:
    """The picture in a file's bytes.

    Args:
        path: for messages only.
        data: the whole file, not empty.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: the data are no still picture of 8 or 16 bits; one sentence says what they are.
    """
    data = data.lstrip()  # servers put line ends before
    still = _still(path, data)
    width, height = still.size
    if width * height > max_pixels:
        raise ImageError(
            f"{path} has {width} x {height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; raise max_pixels (--max-pixels) if you trust the file."
        )
    try:
        return still.decode()
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
        raise ImageError(f"{path} is broken or cut off ({reason(error)}); copy or download it again.") from error


EMPTY = "{} is an empty file; copy or download it again."


def read_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a photo by its header, upright as `read_image` gives it; no pixel is decoded.

    Raises:
        ImageError: the file cannot be read, or is no picture.
    """
    path = Path(path)
    require_file(path)
    try:
        with path.open("rb") as file:
            if not (start := file.read(1)):
                raise ImageError(EMPTY.format(path))
            source = io.BytesIO(path.read_bytes().lstrip()) if start.isspace() else file
            width, height = _size(path, source)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; check the path and its rights.") from error
    return height, width


def require_file(path: Path) -> None:
    """Refuse what would be waited for without end, such as a pipe.

    Raises:
        ImageError: the path is there, and neither a file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError(f"{path} is a pipe, a socket or a device, no photo; leave it out.")


def _size(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Width and height of a photo, upright."""
    kind = kind_of(file)
    if kind in EXTRA:
        file.seek(0)
        return open_extra(path, file.read(), kind).size
    exif: Image.Exif | dict[int, Any] = {}
    if kind == "PNG":  # which Pillow would decode for its EXIF data, and refuse for a text
        try:
            size, data = png.size_of(file)
        except ValueError as error:
            raise broken(path, kind, error) from error
        with contextlib.suppress(Exception):  # what is broken in it turns no photo, and is told when it is read
            exif = Image.Exif()
            exif.load(data)
    else:
        image = _opened(path, file, kind)
        size = image.size
        if kind != "TIFF":  # which Pillow turns by itself
            exif = image.getexif()
    return size[::-1] if exif.get(ORIENTATION, 1) in (5, 6, 7, 8) else size


def _still(path: Path, data: bytes) -> Still:
    """The photo in a file's bytes, of which the header was read."""
    warnings: list[str] = []
    if data.startswith(png.SIGNATURE):
        data, warnings = png.without_remarks(data)
    file = io.BytesIO(data)
    kind = kind_of(file)
    if kind in EXTRA:
        return open_extra(path, data, kind)
    image = _opened(path, file, kind)

    def decode() -> Picture:
        _require_one_picture(path, data, image)
        return _decoded(path, data, image, warnings)

    return Still(image.size, decode)


def _opened(path: Path, file: BinaryIO, form: str | None) -> Image.Image:
    file.seek(0)
    if form is None:
        raise FormatError(f"{path} is {describe(file.read(START))}; convert it to PNG, JPEG, WebP, TIFF or BMP.")
    Image.init()  # registers the formats
    try:
        with unlimited():
            return Image.OPEN[form][0](file, "")  # unlike Image.open, this says why a file cannot be opened
    except Exception as error:
        if form == "TIFF":
            kind = "a TIFF or raw file whose pixels are not 8- or 16-bit integers"
            raise FormatError(f"{path} is {kind}; convert it to PNG, JPEG, WebP, TIFF or BMP.") from error
        raise broken(path, form, error) from error


def _require_one_picture(path: Path, data: bytes, image: Any) -> None:
    """Refuse animations and documents, but not a preview that phones (MPO) and editors (TIFF) put behind the photo."""
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if image.format == "TIFF":
        # Seeking in the image itself would change how it is oriented
        reduced, image = [], _opened(path, io.BytesIO(data), "TIFF")
        for page in range(pages):
            image.seek(page)
            reduced.append(bool(image.tag_v2.get(_SUBFILE, 0) & _REDUCED))
        if reduced[0]:
            raise ImageError(f"{path} starts with a small preview, as raw files do; export the photo itself.")
        pages = reduced.count(False)
    if pages > 1:
        raise animated(path)


def _decoded(path: Path, data: bytes, image: Image.Image, warnings: list[str]) -> Picture:
    bits, floating = _depth(data, image)
    if floating or bits not in (1, 2, 4, 8, 16):
        raise ImageError(f"{path} holds {bits}-bit values, not colours; save it with 8 or 16 bits per channel.")
    exif = kept_exif(image.getexif(), warnings)
    if image.format == "PNG":
        _opened(path, io.BytesIO(data), "PNG").verify()  # checksums, which decoding does not look at
    with unlimited() if image.format == "TIFF" else contextlib.nullcontext():  # its tiles are held to the limit, too
        image.load()  # also checks a 16-bit file, of which OpenCV would show whatever is left
    orientation = image.getexif().get(ORIENTATION, 1)  # after load: Pillow turns TIFFs by itself
    if image.format in ("JPEG", "MPO", "AVIF") and holds_gain_map(data):
        warnings.append(GAIN_MAP)
    coding = Coding()
    if image.format == "PNG":
        coding = png.coding_of(data)
    if image.format == "AVIF":
        coding = coding_of(data)
        if (deep := avif_bits(data)) > 8:
            warnings.append(TOO_DEEP.format("AVIF", deep))
    if bits == 16:
        values = _sixteen_bit_values(path, data, getattr(image, "tag_v2", {}), warnings)
        planes, icc = sixteen_bit(values, image.info.get("icc_profile") or b"", coding, warnings)
    else:
        planes, icc = eight_bit(image, coding, warnings)
    return picture_of(planes, exif, icc, orientation, warnings)


def _depth(data: bytes, image: Image.Image) -> tuple[int, bool]:
    """Bits per value, and whether the values are floating point."""
    if image.format == "PNG":
        return data[24], False
    tags: Any = getattr(image, "tag_v2", {})
    bits = max(np.atleast_1d(tags.get(258, 8)))
    return int(bits), 3 in np.atleast_1d(tags.get(339, 1))


def _sixteen_bit_values(path: Path, data: bytes, tags: Any, warnings: list[str]) -> Pixels:
    """What OpenCV decodes; a TIFF's tags say what a fourth channel is, and whether it has planes, which garble it."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    plain = tags.get(_PHOTOMETRIC, _RGB) in (_BLACK_IS_ZERO, _RGB) and tags.get(_PLANAR, 1) == 1
    if not plain or decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] not in ((), (3,), (4,)):
        raise ImageError(f"{path} holds 16-bit pixels of an unusual kind; save it as a plain RGB PNG or TIFF.")
    if decoded.ndim == 2:
        return decoded
    values = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
    fourth = np.atleast_1d(tags.get(_EXTRA_SAMPLES, _ALPHA))[0]
    if values.shape[2] == 3 or fourth == _ALPHA:
        return values
    if fourth == _MULTIPLIED:
        opacity = np.maximum(values[..., 3:], 1) / 65535
        return np.dstack([np.minimum(values[..., :3] / opacity, 65535).round().astype(np.uint16), values[..., 3]])
    warnings.append("The fourth channel, which is no opacity, was left out.")
    return values[..., :3]

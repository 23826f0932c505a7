"""Decode the bytes of a photo file to a picture: orientation, depth, alpha, colour profile, and what is refused."""

import contextlib
import io
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms

from sspir.images import png
from sspir.images.picture import FormatError, ImageError, Picture, Pixels, spread_colours, upright

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_UNSUPPORTED = {
    b"\x89PNG": "a PNG that was damaged as it was copied as text",
    b"<svg": "an SVG drawing",
    b"<": "an HTML or XML page",
    b"%PDF": "a PDF document",
    b"\0\0\0\x0cJXL": "a JPEG XL image",
    b"\xff\x0a": "a JPEG XL image",
    b"v/1\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
}
_DESCRIPTIVE_TAGS = (270, 271, 272, 305, 306, 315, 33432)  # description, camera, software, date, artist, copyright
_EXIF_IFD, _GPS_IFD, _ORIENTATION = 0x8769, 0x8825, 0x0112
_STALE_EXIF_TAGS = (40962, 40963)  # width and height of the picture as it was taken
_BLACK_IS_ZERO, _RGB = 1, 2  # photometric interpretations of TIFF
_SUBFILE, _REDUCED = 254, 1  # tag and bit of a TIFF's page that is a preview of another
_limit_lock = threading.Lock()


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
    warnings: list[str] = []
    if data.startswith(png.SIGNATURE):
        data, warnings = png.without_remarks(data)
    image = _opened(path, io.BytesIO(data))
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{path} has {width} x {height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; raise max_pixels (--max-pixels) if you trust the file."
        )
    try:
        _require_one_picture(path, data, image)
        return _decoded(path, data, image, warnings)
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
        raise ImageError(f"{path} is broken or cut off ({error}); copy or download it again.") from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a photo by its header, not turned upright; no pixel is decoded.

    Raises:
        ImageError: the file cannot be read, or is no picture.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(24)
            if start.startswith(png.SIGNATURE) and len(start) == 24:
                width, height = struct.unpack(">II", start[16:])
            else:
                source = io.BytesIO(path.read_bytes().lstrip()) if start[:1].isspace() else file
                width, height = _opened(path, source).size
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; check the path and its rights.") from error
    return height, width


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    Image.init()  # registers the formats
    file.seek(0)
    start = file.read(256)
    form = next((form for form in _FORMATS if _starts_as(form, start)), None)
    if form is None:
        raise FormatError(f"{path} is {_kind(start)}; convert it to PNG, JPEG, WebP, TIFF or BMP.")
    file.seek(0)
    try:
        with _unlimited():
            return Image.OPEN[form][0](file, "")  # unlike Image.open, this says why a file cannot be opened
    except Exception as error:
        if form == "TIFF":
            kind = "a TIFF or raw file whose pixels are not 8- or 16-bit integers"
            raise FormatError(f"{path} is {kind}; convert it to PNG, JPEG, WebP, TIFF or BMP.") from error
        raise ImageError(
            f"{path} is a {form} file, but broken, cut off or of a rare kind ({error}); copy or export it again."
        ) from error


def _starts_as(form: str, start: bytes) -> bool:
    """Whether a file starts like files of a format of Pillow; False for the few formats that have no mark."""
    accept = Image.OPEN[form][1]
    return accept is not None and accept(start[:16].ljust(16, b"\0")) is True


def _kind(start: bytes) -> str:
    """Describe a file that cannot be read, by its first bytes."""
    if start[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    for magic, kind in _UNSUPPORTED.items():
        if start.lstrip().startswith(magic):
            return kind
    return next((f"a file of the format {form}" for form in Image.OPEN if _starts_as(form, start)), "not an image")


@contextlib.contextmanager
def _unlimited() -> Iterator[None]:
    """Within, Pillow has no limit of pixels: its own is one global number, and the caller checks ours."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _require_one_picture(path: Path, data: bytes, image: Any) -> None:
    """Refuse animations and documents, but not a preview that phones (MPO) and editors (TIFF) put behind the photo."""
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if image.format == "TIFF":
        # Seeking in the image itself would change how it is oriented
        reduced, image = [], _opened(path, io.BytesIO(data))
        for page in range(pages):
            image.seek(page)
            reduced.append(bool(image.tag_v2.get(_SUBFILE, 0) & _REDUCED))
        if reduced[0]:
            raise ImageError(f"{path} starts with a small preview, as raw files do; export the photo itself.")
        pages = reduced.count(False)
    if pages > 1:
        raise ImageError(f"{path} is animated or has several pages; save the one you mean as a still image.")


def _decoded(path: Path, data: bytes, image: Image.Image, warnings: list[str]) -> Picture:
    bits, floating = _depth(data, image)
    if floating or bits not in (1, 2, 4, 8, 16):
        raise ImageError(f"{path} holds {bits}-bit values, not colours; save it with 8 or 16 bits per channel.")
    exif = _exif(image, warnings)
    if image.format == "PNG":
        _opened(path, io.BytesIO(data)).verify()  # checksums, which decoding does not look at
    with _unlimited() if image.format == "TIFF" else contextlib.nullcontext():  # its tiles are held to the limit, too
        image.load()  # also checks a 16-bit file, of which OpenCV would show whatever is left
    orientation = image.getexif().get(_ORIENTATION, 1)  # after load: Pillow turns TIFFs by itself
    if bits == 16:
        tags: Any = getattr(image, "tag_v2", {})
        pixels, alpha, grey = _sixteen_bit(path, data, tags.get(262, _RGB))
        icc = image.info.get("icc_profile") or b""
        if icc and not _is_srgb(icc):
            warnings.append("16-bit pixels are taken as sRGB; their own colour profile is written back.")
    else:
        pixels, alpha, grey, icc = _eight_bit(image, warnings)
    grey = grey or _colourless(pixels)
    if alpha is not None:
        pixels, alpha = spread_colours(pixels, alpha), upright(alpha, orientation)
    return Picture(upright(pixels, orientation), alpha, grey, exif, icc, warnings)


def _colourless(pixels: Pixels) -> bool:
    """Whether the channels are equal everywhere; one row in sixteen answers for nearly every colour photo."""
    return all(bool((rows[..., :1] == rows[..., 1:]).all()) for rows in (pixels[::16], pixels))


def _depth(data: bytes, image: Image.Image) -> tuple[int, bool]:
    """Bits per value, and whether the values are floating point."""
    if image.format == "PNG":
        return data[24], False
    tags: Any = getattr(image, "tag_v2", {})
    bits = max(np.atleast_1d(tags.get(258, 8)))
    return int(bits), 3 in np.atleast_1d(tags.get(339, 1))


def _sixteen_bit(path: Path, data: bytes, photometric: int) -> tuple[Pixels, Pixels | None, bool]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    plain = photometric in (_BLACK_IS_ZERO, _RGB)  # of print colours, OpenCV would take the fourth for alpha
    if not plain or decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] not in ((), (3,), (4,)):
        raise ImageError(f"{path} holds 16-bit pixels of an unusual kind; save it as a plain RGB PNG or TIFF.")
    if decoded.ndim == 2:
        return cv2.cvtColor(decoded, cv2.COLOR_GRAY2RGB), None, True
    alpha = np.ascontiguousarray(decoded[..., 3]) if decoded.shape[2] == 4 else None
    return np.ascontiguousarray(decoded[..., 2::-1]), alpha, False


def _eight_bit(image: Image.Image, warnings: list[str]) -> tuple[Pixels, Pixels | None, bool, bytes]:
    grey = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        image_alpha = image.convert("RGBA")
        alpha = np.array(image_alpha.getchannel("A"))
        image = image_alpha.convert("RGB") if not grey else image_alpha.convert("L")
    image, icc = _to_srgb(image, image.info.get("icc_profile") or b"", warnings)
    pixels = np.array(image.convert("RGB"))
    return pixels, alpha, grey, icc


def _is_srgb(icc: bytes) -> bool:
    try:
        return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc)))
    except (OSError, ImageCms.PyCMSError):
        return False


def _to_srgb(image: Image.Image, icc: bytes, warnings: list[str]) -> tuple[Image.Image, bytes]:
    """The image in sRGB and the profile to write with it (b"" where the file named none)."""
    if not icc or _is_srgb(icc):
        if image.mode == "CMYK":
            warnings.append("Print colours (CMYK) without a profile: their conversion to RGB is approximate.")
        return image, icc
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = {"GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip(), "RGB")
        converted = ImageCms.profileToProfile(image.convert(mode), profile, srgb, outputMode="RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        warnings.append("The colour profile is broken or does not fit; colours are taken as sRGB.")
        return image, b""
    warnings.append(f"Colours were converted to sRGB from {ImageCms.getProfileDescription(profile).strip()}.")
    return (converted or image), srgb.tobytes()


def _exif(image: Image.Image, warnings: list[str]) -> bytes:
    """The EXIF block without orientation, sizes and thumbnail, which a restored picture changes."""
    try:
        source, kept = image.getexif(), Image.Exif()
        for tag in _DESCRIPTIVE_TAGS:
            if tag in source:
                kept[tag] = source[tag]
        for tag in (_EXIF_IFD, _GPS_IFD):
            values = {key: value for key, value in source.get_ifd(tag).items() if key not in _STALE_EXIF_TAGS}
            if values:
                kept.get_ifd(tag).update(values)
                kept[tag] = values
        return kept.tobytes() if kept else b""
    except Exception:  # cameras write EXIF of every kind; it never stops a picture from being read
        warnings.append("The EXIF data is broken and was left out.")
        return b""

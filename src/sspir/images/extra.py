"""Photos of phones and cameras that take the extra `sspir[formats]`: HEIC, JPEG XL and RAW."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sspir.images import hdr
from sspir.images.colours import eight_bit, picture_of, sixteen_bit
from sspir.images.exif import kept_exif
from sspir.images.jxl import read_header
from sspir.images.kinds import HEIC, JXL, RAW, SEQUENCES
from sspir.images.limit import unlimited
from sspir.images.picture import FormatError, ImageError, Picture, Pixels

INSTALL = "pip install 'sspir[formats]'"
SUFFIXES = {
    HEIC: (".heic", ".heif", ".hif"),
    JXL: (".jxl",),
    RAW: (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
}
_LIBRARIES = {HEIC: "pillow_heif", JXL: "pillow_jxl", RAW: "rawpy"}
TOO_DEEP = "{} is read with 8 bits per value; the file holds {}."
"""Sentence about a format and the bits of a file."""
ORIENTATION = 0x0112
_EXIF_IFD, _DATE_TAKEN, _MAKER_NOTE = 0x8769, 0x9003, 0x927C


@dataclass(frozen=True)
class Still:
    """A photo whose header was read.

    Attributes:
        size: width and height in pixels.
        decode: gives the picture; fails in every way where the file is broken.
    """

    size: tuple[int, int]
    decode: Callable[[], Picture]


def has_library(kind: str) -> bool:
    """Whether the library for one of `SUFFIXES` is installed."""
    return find_spec(_LIBRARIES[kind]) is not None


def open_extra(path: Path, data: bytes, kind: str) -> Still:
    """Read the header of a photo.

    Args:
        path: for messages.
        data: the whole file.
        kind: one of `SUFFIXES`.

    Raises:
        ImageError: the library is missing, or the file is broken or no still picture.
    """
    try:
        import_module(_LIBRARIES[kind])
    except ImportError as error:
        raise FormatError(f"{path} is a {kind} photo and needs the library {_LIBRARIES[kind]}: {INSTALL}.") from error
    try:
        return {HEIC: _open_heic, JXL: _open_jxl, RAW: _open_raw}[kind](path, data)
    except ImageError:
        raise
    except Exception as error:  # libraries raise anything
        raise broken(path, kind, error) from error


def reason(error: Exception) -> str:
    """What a library said about a broken file: its first sentence, in one line."""
    said = error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error).encode()  # bytes: LibRaw's
    return " ".join(said.decode(errors="replace").split()).partition(". ")[0]


def broken(path: Path, kind: str, error: Exception) -> ImageError:
    """The refusal of a photo of which a library says `error`."""
    kind = f"an {kind}" if kind == "AVIF" else f"a {kind}"
    why = f"broken, cut off or of a rare kind ({reason(error)})"
    return ImageError(f"{path} is {kind} file, but {why}; copy or export it again.")


def animated(path: Path) -> ImageError:
    """The refusal of a file of several pictures."""
    return ImageError(f"{path} is animated or has several pages; save the one you mean as a still image.")


def _open_heic(path: Path, data: bytes) -> Still:
    import pillow_heif

    if data[8:12] in SEQUENCES:
        raise animated(path)
    photo = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    warnings = [f"The file holds {len(photo)} photos; the main one was taken."] if len(photo) > 1 else []
    if hdr.holds_gain_map(data):
        warnings.append(hdr.GAIN_MAP)
    nclx = photo.info.get("nclx_profile")
    coding = hdr.Coding(nclx["color_primaries"], nclx["transfer_characteristics"]) if nclx else hdr.Coding()

    def decode() -> Picture:
        values, bits = np.asarray(photo), photo.info["bit_depth"]
        if bits == 8:
            planes, icc = eight_bit(photo.to_pillow(), coding, warnings)
        elif photo.premultiplied_alpha:
            raise ImageError(f"{path} holds {bits}-bit pixels of an unusual kind; save it as a plain RGB PNG or TIFF.")
        else:
            icc = photo.info.get("icc_profile") or b""
            planes, icc = sixteen_bit(_spread(values >> (16 - bits), bits), icc, coding, warnings)
        exif = Image.Exif()
        exif.load(photo.info["exif"] or b"")
        return picture_of(planes, kept_exif(exif, warnings), icc, 1, warnings)  # libheif has turned it

    return Still(photo.size, decode)


def _spread(values: Pixels, bits: int) -> Pixels:
    """Values of fewer bits over all levels of 16: white stays white."""
    levels = np.arange(1 << bits, dtype=np.float64) * (65535 / ((1 << bits) - 1))
    return levels.round().astype(np.uint16)[values]


def _open_jxl(path: Path, data: bytes) -> Still:
    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    header = read_header(data)
    if header.animated:
        raise animated(path)
    if header.floating:
        raise ImageError(f"{path} holds {header.bits}-bit floating-point values; save it with 8 or 16 bits.")

    def decode() -> Picture:
        warnings = [hdr.GAIN_MAP] if hdr.holds_gain_map(data) else []
        with unlimited():  # of a JPEG inside
            image = JXLImageFile(io.BytesIO(data))
        icc = image.info.get("icc_profile") or b""
        if hdr.coding_of_profile(icc).is_bright:
            warnings.append(hdr.BRIGHT)
        if image.mode == "I;16":
            planes, icc = sixteen_bit(np.array(image), icc, hdr.Coding(), warnings)
        else:
            if header.bits > 8:
                warnings.append(TOO_DEEP.format(JXL, header.bits))
            planes, icc = eight_bit(image, hdr.Coding(), warnings)
        exif = image.getexif()
        orientation = (
            exif.get(ORIENTATION, 1) if image.jpeg else 1
        )  # the decoder turns all but a JPEG that it gives back
        return picture_of(planes, kept_exif(exif, warnings), icc, orientation, warnings)

    return Still(header.size, decode)


def _open_raw(path: Path, data: bytes) -> Still:
    import rawpy

    raw = rawpy.imread(io.BytesIO(data))

    def decode() -> Picture:
        warnings = ["Developed from RAW with the camera's white balance and automatic brightness."]
        exif = raw_exif(raw, data)
        srgb = {"output_color": rawpy.ColorSpace.sRGB, "gamma": (2.4, 12.92)}
        with raw:
            values = raw.postprocess(use_camera_wb=True, output_bps=16, **srgb)
        values = values[..., 0] if values.shape[2] == 1 else values  # of a camera without colours
        planes, icc = sixteen_bit(values, b"", hdr.Coding(), warnings)
        return picture_of(planes, kept_exif(exif, warnings), icc, 1, warnings)  # LibRaw has turned it

    return Still((raw.sizes.iwidth, raw.sizes.iheight), decode)


def raw_exif(raw: Any, data: bytes) -> Image.Exif:
    """EXIF of a RAW photo: all of it where the file is built like a TIFF, as most are; the date of the others."""
    exif, taken = Image.Exif(), raw.other.timestamp
    if (order := data[:2]) in (b"II", b"MM"):
        exif.load(order + (b"*\0" if order == b"II" else b"\0*") + data[4:])  # Olympus and Panasonic write other marks
        exif.get_ifd(_EXIF_IFD).pop(_MAKER_NOTE, None)  # of no use beside another picture, and often very long
    elif taken.year > 1970:
        exif.get_ifd(_EXIF_IFD)[_DATE_TAKEN] = taken.strftime("%Y:%m:%d %H:%M:%S")
    return exif

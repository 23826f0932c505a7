"""What kind of file some bytes are: the content counts, not the name."""

from typing import BinaryIO

from PIL import Image, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sspir.images import jxl

HEIC, JXL, RAW = "HEIC", "JPEG XL", "RAW"
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Formats that Pillow reads, by its names."""
START = 256
"""Bytes of a file that tell what it is, but for TIFFs that are RAW photos."""

_UNSUPPORTED = {
    b"\x89PNG": "a PNG that was damaged as it was copied as text",
    b"<svg": "an SVG drawing",
    b"<": "an HTML or XML page",
    b"%PDF": "a PDF document",
    b"v/1\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
}
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"II*\0\x10\0\0\0CR", b"\0\0\0\x18ftypcrx ")
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_SUBFILE, _SUB_FOLDERS, _DNG_VERSION = 254, 330, 50706  # tags
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"}
_AVIF_BRANDS = {b"avif", b"avis"}
SEQUENCES = (b"hevc", b"hevx", b"msf1")
"""First brands of HEIC files that are films."""


def kind_of(file: BinaryIO) -> str | None:
    """`HEIC`, `JXL`, `RAW`, one of `FORMATS`, or None for anything else."""
    file.seek(0)
    start = file.read(START)
    if start.startswith((jxl.BARE, jxl.BOXED)):
        return JXL
    if start.startswith(_RAW_STARTS) or (start.startswith(_TIFF_STARTS) and _is_raw(file)):
        return RAW
    if brands := brands_of(start):
        if brands & _AVIF_BRANDS:
            return "AVIF" if features.check("avif") else None
        return HEIC if brands & _HEIC_BRANDS else None
    return next((form for form in FORMATS if _starts_as(form, start)), None)


def brands_of(data: bytes) -> set[bytes]:
    """What a file in boxes, as HEIC, AVIF and films are, says that it is; empty for other files."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4]), START)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def describe(start: bytes) -> str:
    """Describe a file that cannot be read, by its first bytes."""
    if start[4:8] == b"ftyp":
        return (
            "an AVIF file, which this Pillow lacks" if brands_of(start) & _AVIF_BRANDS else "a film or of a rare kind"
        )
    for magic, kind in _UNSUPPORTED.items():
        if start.lstrip().startswith(magic):
            return kind
    return next((f"a file of the format {form}" for form in Image.OPEN if _starts_as(form, start)), "not an image")


def _starts_as(form: str, start: bytes) -> bool:
    """Whether a file starts like files of a format of Pillow; False for the few formats that have no mark."""
    Image.init()  # registers the formats
    accept = Image.OPEN[form][1]
    return accept is not None and accept(start[:16].ljust(16, b"\0")) is True


def _is_raw(file: BinaryIO) -> bool:
    """Whether a TIFF is a camera's: a DNG, or a preview in front with the photo in folders below it."""
    file.seek(0)
    try:
        folder = ImageFileDirectory_v2(file.read(8))
        file.seek(folder.next)
        folder.load(file)
        return _DNG_VERSION in folder or (bool(folder.get(_SUBFILE, 0) & 1) and _SUB_FOLDERS in folder)
    except Exception:  # damaged folders fail in every way; reading the TIFF says so
        return False

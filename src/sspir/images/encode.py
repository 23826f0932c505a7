"""Encode a picture to the bytes of a photo file: depth, alpha, EXIF and profile as far as the format holds them."""

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sspir.images.picture import Picture, Pixels

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"subsampling": 0},  # what was restored is not thrown away again
    "WEBP": {"exact": False},
    "BMP": {},
}
_FORMAT_OF = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
LONGEST = {"JPEG": 65500, "WEBP": 16383}
"""Format -> pixels of the longest side that its encoder takes; the others take any."""
_JPEG_EXIF_BYTES = 65533  # one segment
_MINIMAL_IS_BLACK, _RGB = 1, 2


def encode_picture(picture: Picture, suffix: str, quality: int) -> tuple[bytes, list[str]]:
    """The file's bytes, and one sentence for each thing the format could not hold.

    Args:
        picture: what to write.
        suffix: lower case, with its dot.
        quality: 1 to 100, of JPEG and WebP; at 100 WebP is lossless.

    Raises:
        OSError: if the format cannot hold a picture of this size.
    """
    form = file_format(suffix)
    picture, lost = _fitted(picture, form)
    if form == "TIFF":
        return _tiff(picture), lost
    if picture.peak == 65535:
        return _png16(picture), lost
    options = _SAVE_OPTIONS[form] | {"exif": picture.exif, "icc_profile": picture.icc or None}
    if form in ("JPEG", "WEBP"):
        options |= {"quality": quality}
    if form == "WEBP":
        options |= {"lossless": quality >= 100}
    buffer = io.BytesIO()
    Image.fromarray(_channels(picture)).save(buffer, format=form, **options)
    return buffer.getvalue(), lost


def file_format(suffix: str) -> str:
    """Pillow's name of the format that one of `SUFFIXES` stands for, in capitals or not."""
    return _FORMAT_OF.get(suffix.lower(), "BMP")


def _fitted(picture: Picture, form: str) -> tuple[Picture, list[str]]:
    """Reduce a picture to what a format holds; returns it, and one sentence for each thing that was lost."""
    lost = []
    if picture.alpha is not None and form in ("JPEG", "BMP"):
        opacity = picture.alpha[..., None] / picture.peak
        flat = picture.pixels * opacity + picture.peak * (1 - opacity)
        picture = replace(picture, pixels=flat.round().astype(picture.pixels.dtype), alpha=None)
        lost.append(f"{form} has no transparency: the picture stands on white.")
    if picture.peak == 65535 and form not in ("PNG", "TIFF"):
        alpha = None if picture.alpha is None else _to_eight(picture.alpha)
        picture = replace(picture, pixels=_to_eight(picture.pixels), alpha=alpha)
        lost.append(f"{form} holds 8 bits: the 16-bit picture was rounded.")
    if picture.icc[16:20] != (b"GRAY" if _is_one_channel(picture) else b"RGB "):
        picture = replace(picture, icc=b"")  # a grey sRGB picture needs none
    if form == "BMP" and (picture.exif or picture.icc):
        picture = replace(picture, exif=b"", icc=b"")
        lost.append("BMP holds neither EXIF nor a colour profile.")
    if form == "JPEG" and len(picture.exif) > _JPEG_EXIF_BYTES:
        picture = replace(picture, exif=b"")
        lost.append("The EXIF data is larger than a JPEG holds and was left out.")
    return picture, lost


def _to_eight(values: Pixels) -> Pixels:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _is_one_channel(picture: Picture) -> bool:
    """Whether the file stores grey as one plane; neither OpenCV nor Pillow has 16-bit grey with alpha."""
    return picture.grey and (picture.alpha is None or picture.peak == 255)


def _channels(picture: Picture) -> Pixels:
    """The planes as the file stores them: (H, W), (H, W, 2), (H, W, 3) or (H, W, 4)."""
    colours = picture.pixels[..., :1] if _is_one_channel(picture) else picture.pixels
    planes = colours if picture.alpha is None else np.concatenate([colours, picture.alpha[..., None]], axis=2)
    return np.ascontiguousarray(planes[..., 0] if planes.shape[2] == 1 else planes)


def _png16(picture: Picture) -> bytes:
    planes = _channels(picture)
    if planes.ndim == 3:
        planes = cv2.cvtColor(planes, cv2.COLOR_RGB2BGR if planes.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    data = cv2.imencode(".png", planes)[1].tobytes()
    extra = b""
    if picture.icc:
        extra += _png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        extra += _png_chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    after_header = 33  # signature 8, IHDR 4 + 4 + 13 + 4 bytes
    return data[:after_header] + extra + data[after_header:]


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff(picture: Picture) -> bytes:
    """One deflated strip; done here as Pillow has no 16-bit RGB, OpenCV no metadata, libtiff no EXIF folders."""
    planes = _channels(picture)
    height, width = planes.shape[:2]
    channels = 1 if planes.ndim == 2 else planes.shape[2]
    strip = zlib.compress(planes.astype(planes.dtype.newbyteorder("<")).tobytes())
    tags = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if picture.exif:
        exif = Image.Exif()
        exif.load(picture.exif)
        for tag, value in exif.items():
            tags[tag] = exif.get_ifd(tag) if tag in (0x8769, 0x8825) else value
    tags[256], tags[257], tags[258], tags[259] = width, height, (planes.itemsize * 8,) * channels, 8  # 8: deflate
    tags[262] = _RGB if channels >= 3 else _MINIMAL_IS_BLACK
    tags[277], tags[278], tags[279] = channels, height, len(strip)
    if picture.alpha is not None:
        tags[338] = 2  # unassociated alpha
    if picture.icc:
        tags.tagtype[34675] = 7  # bytes of no type
        tags[34675] = picture.icc
    tags[273] = 0  # Pillow adds the size of what it writes before the strip
    return b"II*\0\x08\0\0\0" + tags.tobytes(8) + strip

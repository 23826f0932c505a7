"""Strip texts and remarks from a PNG, so that neither their size nor damage in them costs the picture."""

import os
import struct
import zlib
from typing import BinaryIO

from PIL import PngImagePlugin

from sspir.images.hdr import Coding

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_KEPT = (b"tRNS", b"cICP", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT")
_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # where older programs keep orientation and EXIF
_LOST = {
    b"iCCP": "The colour profile is broken; colours are taken as sRGB.",
    b"eXIf": "The EXIF data is broken and was left out.",
}
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # profiles and XMP outgrow Pillow's 1 MB


def size_of(file: BinaryIO) -> tuple[tuple[int, int], bytes]:
    """Width and height in a file's header, and its EXIF data, b"" for none; chunks are passed over, whatever they hold.

    Raises:
        ValueError: the header is cut off.
    """
    file.seek(len(SIGNATURE))
    size, exif = (0, 0), b""
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        if name == b"IHDR" and len(sides := file.read(8)) == 8:
            size = struct.unpack(">II", sides)
            length -= 8
        elif name == b"eXIf":
            exif = file.read(length)
            length = 0
        elif name == b"IDAT":
            break
        file.seek(length + 4, os.SEEK_CUR)
    if not all(size):
        raise ValueError("the header is cut off")
    return size, exif


def without_remarks(data: bytes) -> tuple[bytes, list[str]]:
    """Leave out the chunks that decoding does not need, and end a file that lacks only its last chunk.

    Args:
        data: a file that starts with `SIGNATURE`.

    Returns:
        The file with pixels, transparency, animation, and with profile and EXIF where they are sound; and one sentence
        for each of these two that is broken.
    """
    parts, lost, at = [SIGNATURE], [], len(SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        is_kept = name in _KEPT or data[at + 8 : end - 4].startswith(_TEXTS)
        if name[:1].isupper() or (is_kept and _is_sound(data[at:end])):
            parts.append(data[at:end])
        elif name in _LOST:
            lost.append(_LOST[name])
        at = end
        if name == b"IEND":
            return b"".join(parts), lost
    parts.append(_END if _END.startswith(data[at:]) else data[at:])
    return b"".join(parts), lost


def coding_of(data: bytes) -> Coding:
    """How a file codes its colours, where it says so in numbers."""
    at = data.find(b"cICP", 0, data.find(b"IDAT")) + 4
    return Coding(data[at], data[at + 1]) if at >= 4 else Coding()


def _is_sound(chunk: bytes) -> bool:
    """Whether a chunk (length, name, content, checksum) is as it was written, and a profile can be unpacked."""
    if struct.pack(">I", zlib.crc32(chunk[4:-4])) != chunk[-4:]:
        return False
    try:
        return chunk[4:8] != b"iCCP" or bool(zlib.decompress(chunk[8:-4].partition(b"\0")[2][1:]))
    except zlib.error:
        return False

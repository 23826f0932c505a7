"""Files of phones and cameras, written by their libraries or, where none writes them, by hand."""

import io
import struct

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2
from skimage import data as photos

from tests.needs import needs

COLOUR = photos.astronaut()[100:164, 180:276]  # (64, 96, 3)
DEEP = (COLOUR.astype(np.uint16) * 257) ^ np.uint16(37)


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a cup"
    exif.get_ifd(0x8769).update({36867: "2020:02:03 04:05:06", 40962: 96})
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def plain(form: str) -> bytes:
    """`COLOUR` as a file of a format that Pillow writes."""
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, form)
    return buffer.getvalue()


def frames(form: str) -> bytes:
    """An animation, or pages, of `COLOUR` and its negative."""
    buffer = io.BytesIO()
    image = Image.fromarray(COLOUR)
    image.save(buffer, form, save_all=True, append_images=[ImageOps.invert(image)])
    return buffer.getvalue()


def photo(kind: str, orientation: int = 1, icc: bytes | None = None) -> bytes:
    """`COLOUR` as a file of a kind, with EXIF."""
    exif = exif_block(orientation)
    if kind == "heic":
        return heic(COLOUR, exif=exif, icc_profile=icc)
    if kind == "dng":
        return dng(orientation)
    if kind == "jxl":
        needs("pillow_jxl", "formats")
    form, options = {"jxl": ("JXL", {"lossless": True}), "avif": ("AVIF", {"quality": 100, "subsampling": "4:4:4"})}[
        kind
    ]
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, form, exif=exif, icc_profile=icc, **options)
    return buffer.getvalue()


def heic(*pictures: np.ndarray, **options: object) -> bytes:
    """(H, W), (H, W, 3) or (H, W, 4) pictures of uint8 or uint16, which are kept in 10 bits."""
    pillow_heif = needs("pillow_heif", "formats")
    file = pillow_heif.HeifFile()
    for pixels in pictures:
        mode = {2: "L", 3: "RGB" if pixels.shape[2:] == (3,) else "RGBA"}[pixels.ndim]
        mode += ";16" * (pixels.dtype == np.uint16)
        file.add_frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    buffer = io.BytesIO()
    options = {name: value for name, value in options.items() if value is not None}
    file.save(buffer, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return buffer.getvalue()


def dng(orientation: int = 1, size: tuple[int, int] | None = None) -> bytes:
    """`COLOUR` as a camera with filters of three colours would see it under light that halves red: a 16-bit DNG.

    Args:
        orientation: of the camera.
        size: width and height that it says to have.
    """
    needs("rawpy", "formats")
    light = COLOUR / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4) * (0.5, 1, 1)
    values = light[..., 1].copy()
    values[::2, ::2], values[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
    strip = (values * 65535).round().astype("<u2").tobytes()
    to_camera = (3.2404542, -1.5371385, -0.4985314, -0.9692660, 1.8760108, 0.0415560, 0.0556434, -0.2040259, 1.0572252)
    shorts, bytes_, fractions = {258: 16, 277: 1, 33421: (2, 2), 50717: 65535, 50778: 21}, {}, {}
    shorts |= {254: 0, 259: 1, 262: 32803, 274: orientation}
    bytes_ |= {33422: bytes([0, 1, 1, 2]), 50706: bytes([1, 4, 0, 0])}  # the filters; the version of DNG
    fractions |= {50721: (10, [round(1e6 * value) for value in to_camera]), 50728: (5, [500_000, 1_000_000, 1_000_000])}
    tags = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    for values_of, tag_type in ((shorts, 3), (bytes_, 1)):
        for tag, value in values_of.items():
            tags.tagtype[tag], tags[tag] = tag_type, value
    for tag, (tag_type, numbers) in fractions.items():
        tags.tagtype[tag], tags[tag] = tag_type, tuple(IFDRational(number, 1_000_000) for number in numbers)
    tags[271], tags[272], tags[306], tags[50708] = "Maker", "Model", "2020:02:03 04:05:06", "Maker Model"
    tags[34665], tags[34853] = {36867: "2020:02:03 04:05:06", 37500: b"secret" * 9}, {1: "N"}
    tags[256], tags[257] = size or COLOUR.shape[1::-1]
    tags[278], tags[279], tags[273] = tags[257], len(strip), 0
    return b"II*\0\x08\0\0\0" + tags.tobytes(8) + strip


def jxl_header(
    width: int, height: int, *, transfer: int = 13, animated: bool = False, orientation: int = 1, bits: int = 8
) -> bytes:
    """The mark and header of a JPEG XL codestream of RGB, up to where the picture itself begins."""
    fields: list[tuple[int, int]] = [(0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30), (0, 1)]
    fields += [(1, 1), (orientation - 1, 3), (0, 2), (int(animated), 1)]  # neither another size nor a preview
    if animated:
        return b"\xff\x0a" + _bits(fields) + bytes(40)
    fields += [(0, 1), (3, 2), (bits - 1, 6)]  # integers
    fields += [(1, 1), (0, 2), (0, 1)]  # 16 bits are enough within; no alpha; RGB as it is
    curve = [(2, 2), (transfer - 2, 4)] if transfer < 18 else [(3, 2), (transfer - 18, 6)]
    fields += [(0, 2), (0, 2), (1, 2), (1, 2), (0, 1), *curve, (1, 2)]  # its colours
    fields += [(1, 1), (0, 2), (1, 1)]  # nothing about tones, no extensions, no other matrices
    return b"\xff\x0a" + _bits(fields)


def _bits(fields: list[tuple[int, int]]) -> bytes:
    total, at = 0, 0
    for value, count in fields:
        total, at = total | value << at, at + count
    return total.to_bytes((at + 7) // 8, "little")


def jxl(**header: int) -> bytes:
    """`COLOUR` without loss and without EXIF, under a header of `jxl_header`."""
    needs("pillow_jxl", "formats")
    bare = io.BytesIO()
    Image.fromarray(COLOUR).save(bare, "JXL", lossless=True)
    at_frame = 5  # behind the encoder's own header: the mark and, for this size and plain sRGB, 22 bits
    return jxl_header(96, 64, **header) + bare.getvalue()[at_frame:]


def box(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content

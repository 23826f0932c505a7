"""Decoded values to a picture in sRGB: palettes, transparency and colour profiles."""

import io

import numpy as np
from PIL import Image, ImageCms

from sspir.images.hdr import SRGB, Coding, coding_of_profile, to_srgb
from sspir.images.picture import Picture, Pixels, spread_colours, upright

Planes = tuple[Pixels, Pixels | None, bool]
"""(H, W, 3) colours, (H, W) opacity or None, and whether the file says that it has no colour."""


def picture_of(planes: Planes, exif: bytes, icc: bytes, orientation: int, warnings: list[str]) -> Picture:
    """The picture of decoded values, turned upright.

    Args:
        planes: of the file.
        exif: see `Picture`.
        icc: see `Picture`.
        orientation: of the values, as EXIF counts it.
        warnings: see `Picture`.
    """
    pixels, alpha, grey = planes
    profile_keeps_colours = icc[16:20] == b"RGB " and not _is_srgb(icc)  # one channel would lose it
    grey = grey or (_colourless(pixels) and not profile_keeps_colours)
    if alpha is not None:
        pixels, alpha = spread_colours(pixels, alpha), upright(alpha, orientation)
    return Picture(upright(pixels, orientation), alpha, grey, exif, icc, warnings)


def eight_bit(image: Image.Image, coding: Coding, warnings: list[str]) -> tuple[Planes, bytes]:
    """Planes of an image of Pillow, in sRGB, and the profile to write with them.

    Args:
        image: whose profile is in its `info`.
        coding: how the file codes its colours, beside or without a profile.
        warnings: see `Picture`.
    """
    grey = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        image_alpha = image.convert("RGBA")
        alpha = np.array(image_alpha.getchannel("A"))
        image = image_alpha.convert("RGB") if not grey else image_alpha.convert("L")
    icc = image.info.get("icc_profile") or b""
    numbered = coding.counts_before(icc)
    image, icc = _to_srgb(image, b"" if numbered else icc, warnings)
    pixels = np.array(image.convert("RGB"))
    return (to_srgb(pixels, coding, warnings) if numbered else pixels, alpha, grey), icc


def sixteen_bit(values: Pixels, icc: bytes, coding: Coding, warnings: list[str]) -> tuple[Planes, bytes]:
    """Planes of 16-bit values, and the profile to write with them; Pillow cannot convert from profiles in 16 bits.

    Args:
        values: (H, W), (H, W, 3) or (H, W, 4), RGB.
        icc: profile of the file.
        coding: see `eight_bit`.
        warnings: see `Picture`.
    """
    grey = values.ndim == 2
    pixels = np.repeat(values[..., None], 3, axis=2) if grey else np.ascontiguousarray(values[..., :3])
    alpha = np.ascontiguousarray(values[..., 3]) if values.shape[2:] == (4,) else None
    if coding.counts_before(icc):
        return (to_srgb(pixels, coding, warnings), alpha, grey), b""
    if not _is_srgb(icc):
        warnings.append("16-bit pixels are taken as sRGB; their own colour profile is written back.")
    return (pixels, alpha, grey), icc


def _colourless(pixels: Pixels) -> bool:
    """Whether the channels are equal everywhere; one row in sixteen answers for nearly every colour photo."""
    return all(bool((rows[..., :1] == rows[..., 1:]).all()) for rows in (pixels[::16], pixels))


def _is_srgb(icc: bytes) -> bool:
    if coding_of_profile(icc) == SRGB:
        return True
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

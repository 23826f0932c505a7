"""What of a photo's EXIF goes with its restored picture."""

from PIL import Image

_DESCRIPTIVE_TAGS = (270, 271, 272, 305, 306, 315, 33432)  # description, camera, software, date, artist, copyright
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_STALE_EXIF_TAGS = (40962, 40963, 40965)  # width and height as it was taken, and the place of a block in that file


def kept_exif(source: Image.Exif, warnings: list[str]) -> bytes:
    """The EXIF block without orientation, sizes and thumbnail, which a restored picture changes; b"" for none.

    Args:
        source: of the photo.
        warnings: gets a sentence where the block is broken.
    """
    try:
        kept = Image.Exif()
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


def without_gps(block: bytes) -> bytes:
    """An EXIF block of `kept_exif` without the place where the photo was taken."""
    exif = Image.Exif()
    exif.load(block)
    exif.get_ifd(_EXIF_IFD)  # read, so that it is written again
    if _GPS_IFD in exif:
        del exif[_GPS_IFD]
    return exif.tobytes() if exif else b""

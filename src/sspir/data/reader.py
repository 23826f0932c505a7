"""Read photos, and keep some of them in memory."""

from pathlib import Path

from sspir.data.crop import Pixels
from sspir.images.io import MAX_PIXELS, read_image

MISSING = "missing"
"""The mark of a link to nowhere."""


def mark_of(path: Path) -> str:
    """A photo's size in bytes, for a manifest; a link to nowhere is told when it is read, or before a validation."""
    try:
        return str(path.stat().st_size)
    except OSError:
        return MISSING


class PhotoReader:
    """Reads photos and keeps decoded ones until a bound is reached; later photos are read every time.

    No photo is dropped for another: with shuffled epochs every photo is needed as soon as any other.

    Args:
        cache_gb: bound of the photos that are kept, GB; 0 keeps none.
        max_pixels: larger photos are refused.
    """

    def __init__(self, cache_gb: float = 0.0, max_pixels: int = MAX_PIXELS) -> None:
        self.room = int(cache_gb * 1e9)
        self.max_pixels = max_pixels
        self.kept: dict[Path, Pixels] = {}

    def __call__(self, path: Path) -> Pixels:
        """The pixels of a file, (H, W, 3) uint8 or uint16.

        Raises:
            ImageError: for a broken file.
        """
        if path in self.kept:
            return self.kept[path]
        pixels = read_image(path, self.max_pixels).pixels
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self.kept[path] = pixels
        return pixels

"""Pillow without its own limit of pixels, which is one number for the whole process."""

import contextlib
import threading
from collections.abc import Iterator

from PIL import Image

_lock = threading.Lock()


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Within, Pillow has no limit of pixels; the caller checks ours."""
    with _lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit

"""Small pieces of HTML: sentences, durations, pictures."""

import base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sspir.images.io import ImageError, read_image

if TYPE_CHECKING:
    from sspir.app.restorer import Restored

SIDE = 384
"""Pixels of the longer side of a small picture."""
MOST = 10
"""Small pictures that are shown."""


def sentences(texts: Iterable[str], kind: str = "problem") -> str:
    """A box for each sentence; `kind` is "problem" or "note"."""
    return "".join(f"<p class='{kind}' role='alert'>{escape(text)}</p>" for text in texts)


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def image(picture: Image.Image, name: str) -> str:
    """A small picture within the page, so that there is no file of it to delete."""
    picture.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{escape(name, quote=True)}' src='data:image/png;base64,{data}'>"


def looks(photos: Sequence[Path]) -> str:
    """Small pictures of the first photos; one that cannot be decoded is told of when it is restored."""
    shown = []
    for photo in photos[:MOST]:
        with suppress(ImageError):
            pixels = read_image(photo).pixels
            eight_bit = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
            shown.append(image(Image.fromarray(eight_bit), photo.name))
    return f"<div class='previews'>{''.join(shown)}</div>"


def summary(done: "Sequence[Restored]", failed: dict[str, str]) -> str:
    """What was restored, what was different, and what failed."""
    told = f"<p role='status'>{len(done)} restored in {duration(sum(each.seconds for each in done))}.</p>"
    notes = sentences((f"{each.name}: {text}" for each in done for text in each.warnings), "note")
    return (told if done else "") + notes + sentences(f"{name} failed: {text}" for name, text in failed.items())

"""Small pieces of HTML: sentences, durations, pictures."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

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
        try:
            with Image.open(photo) as opened:
                opened.thumbnail((SIDE, SIDE))
                shown.append(image(opened.convert("RGB"), photo.name))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
    return f"<div class='previews'>{''.join(shown)}</div>"

"""Pictures for people: labelled images side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sspir.images.picture import Picture

_INK, _PAPER, _GAP = (32, 32, 32), (255, 255, 255), 6


def to_picture(image: Tensor) -> Picture:
    """(3, H, W) in [0, 1] -> an 8-bit picture to write, rounded."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Picture(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> an 8-bit picture of Pillow, rounded."""
    return Image.fromarray(to_picture(image).pixels)


def middle(image: Tensor, size: int) -> Tensor:
    """The middle of (3, H, W), at most `size` pixels in height and width."""
    top, left = (max(0, (length - size) // 2) for length in image.shape[-2:])
    return image[:, top : top + size, left : left + size]


def panel(columns: Mapping[str, Tensor], caption: str = "") -> Image.Image:
    """Put images of one size beside each other under their names.

    Args:
        columns: name -> (3, H, W) in [0, 1], from left to right.
        caption: a line below; cut where it is too long.
    """
    pictures = {name: to_pil(image) for name, image in columns.items()}
    width, height = next(iter(pictures.values())).size
    font = ImageFont.load_default(size=max(11, min(18, width // 14)))
    line = int(font.getbbox("Ag")[3]) + 6
    total = len(pictures) * (width + _GAP) - _GAP
    canvas = Image.new("RGB", (total, height + line * (2 if caption else 1)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (name, picture) in enumerate(pictures.items()):
        left = index * (width + _GAP)
        draw.text((left + 2, 2), name, _INK, font=font)
        canvas.paste(picture, (left, line))
    if caption:
        while caption and font.getlength(caption) > total:
            caption = caption[:-2].rstrip() + "…" if len(caption) > 2 else ""
        draw.text((2, line + height + 2), caption, _INK, font=font)
    return canvas


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height + _GAP for picture in pictures) - _GAP), _PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height + _GAP
    return canvas

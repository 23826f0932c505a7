"""A contact sheet: one photo under many draws, labelled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sspir.degradation.degradation import Degradation
from sspir.degradation.operation import Step
from sspir.images.panel import to_pil

HIDDEN = ("operation", "seed", "mixing", "antialias")
LINE = 13  # pixels of a line of text
MARGIN = 6  # pixels between cells
COLUMNS = 4  # cells beside each other


def describe(step: Step) -> str:
    """A step in a line: "Blur iso, kernel_size 13, sigma 1.2/1.2"."""
    parts = [_worded(key, value) for key, value in step.items() if key not in HIDDEN]
    return " ".join([step["operation"], ", ".join(part for part in parts if part)]).strip()


def contact_sheet(degradation: Degradation, photo: Tensor, seeds: Sequence[int]) -> NDArray[Any]:
    """Show what a degradation does to a photo.

    Args:
        degradation: what is shown.
        photo: (3, H, W) in [0, 1]; H and W are multiples of the scale.
        seeds: one draw each.

    Returns:
        (h, w, 3) uint8 sheet that begins with the photo itself; low-quality images are enlarged to its size pixel by
        pixel.
    """
    height, width = photo.shape[-2:]
    params = [degradation.draw(seed, (height, width)) for seed in seeds]
    lq = degradation.apply(photo.expand(len(seeds), -1, -1, -1), params)
    shown = F.interpolate(lq, (height, width), mode="nearest-exact")
    labels = [
        ["the photo"],
        *([f"seed {seed}", *map(describe, steps)] for seed, steps in zip(seeds, params, strict=True)),
    ]
    font = ImageFont.load_default(LINE - 3)
    labels = [[line for text in label for line in _wrapped(text, font, width)] for label in labels]
    text_height = LINE * max(map(len, labels)) + MARGIN
    rows = -(-len(labels) // COLUMNS)
    size = (COLUMNS * (width + MARGIN) + MARGIN, rows * (height + text_height + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, label) in enumerate(zip([photo, *shown], labels, strict=True)):
        left = MARGIN + place % COLUMNS * (width + MARGIN)
        top = MARGIN + place // COLUMNS * (height + text_height + MARGIN)
        sheet.paste(to_pil(image), (left, top))
        for number, line in enumerate(label):
            pen.text((left, top + height + 2 + number * LINE), line, fill="black", font=font)
    return np.asarray(sheet)


def _worded(key: str, value: Any) -> str:
    """A parameter of a step in words, "" where there is nothing to say."""
    if value is None or value is False or (key == "rotation" and value == 0):
        return ""
    if value is True:
        return key
    if key in ("kernel", "mode"):
        return str(value)
    if key == "size":
        return f"{value[1]}x{value[0]}"
    numbers = value if isinstance(value, list) else [value]
    return f"{key} {'/'.join(f'{number:.3g}' for number in numbers)}"


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Break a text at spaces into lines of at most `width` pixels; all but the first are indented."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) > width and lines[-1]:
            lines.append(f"   {word}")
        else:
            lines[-1] = longer
    return lines

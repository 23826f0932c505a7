"""Captions without a language model: light, colours, sharpness, texture and lines, measured and said in words."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sspir.captioners import photo_measures as measure
from sspir.captioners.base import Captioner, Images
from sspir.color import luma

_LONGEST_SIDE = 512  # pixels looked at: more tells no more and takes longer


class MeasuredCaptioner(Captioner):
    """Describes each image by measures of it; needs no weights and ignores known texts.

    The same image always gets the same words, e.g. "a dark, muted landscape photo, mostly brown and black, in sharp
    focus, with fine detail and vertical lines".
    """

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """One description per image; arguments as of `Captioner`."""
        return [describe(image.detach().float().cpu().clamp(0, 1)) for image in images]


def describe(image: Tensor) -> str:
    """One phrase about an image (3, H, W) in [0, 1], RGB."""
    height, width = image.shape[-2:]
    picture, grey = _reduced(image[None]), _reduced(luma(image[None]))
    colour = colourfulness(picture)
    parts = [f"a {', '.join([*light(grey), colour])} {shape(height, width)} photo"]
    if colour != "black-and-white":
        parts.append(f"mostly {' and '.join(measure.dominant_colours(picture))}")
    parts.append(focus(grey))
    return ", ".join(parts) + " " + _joined(texture(grey))


def _reduced(image: Tensor) -> Tensor:
    scale = _LONGEST_SIDE / max(image.shape[-2:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _joined(words: Sequence[str]) -> str:
    return "with " + " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shape(height: int, width: int) -> str:
    """The picture's format: landscape, portrait or square."""
    if width > 1.1 * height:
        return "landscape"
    return "portrait" if height > 1.1 * width else "square"


def light(grey: Tensor) -> list[str]:
    """Brightness and contrast of luma (1, 1, H, W)."""
    brightness, contrast = measure.brightness(grey), measure.contrast(grey)
    words = ["dark" if brightness < 0.25 else "bright" if brightness > 0.65 else "well-lit"]
    if measure.backlight(grey) > 0.25:
        words = ["backlit"]
    if contrast < 0.35:
        words.append("low-contrast")
    elif contrast > 0.85:
        words.append("high-contrast")
    return words


def colourfulness(picture: Tensor) -> str:
    """A word for the amount of colour in an image (1, 3, H, W)."""
    amount = measure.colourfulness(picture)
    if amount < 0.012:
        return "black-and-white"
    return "muted" if amount < 0.11 else "colourful" if amount < 0.25 else "very colourful"


def focus(grey: Tensor) -> str:
    """Sharpness of luma (1, 1, H, W)."""
    blur = measure.blur(grey)
    return "in sharp focus" if blur < 0.42 else "in soft focus" if blur < 0.6 else "blurred"


def texture(grey: Tensor) -> list[str]:
    """Noise, texture and lines of luma (1, 1, H, W), at least one of them."""
    detail, noise, lines = measure.detail(grey), measure.noise(grey), measure.lines(grey)
    words = ["smooth areas" if detail < 0.03 else "fine detail" if detail > 0.09 else "some detail"]
    if measure.repetition(grey) > 0.35:
        words.append("a repeating pattern")
    strongest = max(lines, key=lambda name: lines[name])
    if lines[strongest] > 0.4:
        words.append(f"{strongest} lines")
    if noise > 0.05:
        words.append("strong noise")
    elif noise > 0.015 and detail < 0.13:  # in finer detail than that nothing is flat enough to tell
        words.append("grain")
    return words

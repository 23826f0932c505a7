"""Captions without a language model: light, colours, sharpness, texture and lines, measured and said in words."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.captioners import photo_measures as measure
from sspir.captioners.base import Captioner, Images
from sspir.color import luma
from sspir.device import replayed

_LONGEST_SIDE = 512  # pixels looked at: more tells no more and takes longer
_AT_ONCE = 1 << 18  # pixels measured together on a CPU: more leave its cache


class MeasuredCaptioner(Captioner):
    """Describes each image by measures of it; needs no weights and ignores known texts.

    The same image always gets the same words, e.g. "a dark, muted landscape photo, mostly brown and black, in sharp
    focus, with fine detail and vertical lines".
    """

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """One description per image; arguments as of `Captioner`."""
        with torch.autocast(images[0].device.type, enabled=False):  # or a training in halves would tell other words
            return [words for batch in _batches(images) for words in describe(batch.detach().float().clamp(0, 1))]


def _batches(images: Images) -> Sequence[Tensor]:
    """Images of one size together, of several sizes one by one, each (n, 3, H, W)."""
    if not isinstance(images, Tensor):
        return [image[None] for image in images]
    on_cpu = images.device.type == "cpu"
    return torch.split(images, max(1, _AT_ONCE // images.shape[-2:].numel()) if on_cpu else len(images))


def describe(images: Tensor) -> list[str]:
    """One phrase about each of the images (B, 3, H, W) in [0, 1], RGB; a GPU is waited for once."""
    height, width = images.shape[-2:]
    return [_phrase(shape(height, width), numbers, shares) for numbers, shares in _measured(images)]


def _phrase(format_: str, numbers: Mapping[str, float], shares: Mapping[str, float]) -> str:
    colour = colourfulness(numbers)
    parts = [f"a {', '.join([*light(numbers), colour])} {format_} photo"]
    if colour != "black-and-white":
        parts.append(f"mostly {' and '.join(measure.dominant_colours(shares))}")
    parts.append(focus(numbers))
    return ", ".join(parts) + " " + _joined(texture(numbers))


def _measured(images: Tensor) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Every image's measures, and the shares of its colours."""
    numbers, shares = _measures(images)
    rows = torch.stack([*numbers.values(), *shares.values()], dim=1).cpu().tolist()
    return [
        (dict(zip(numbers, row, strict=False)), dict(zip(shares, row[len(numbers) :], strict=True))) for row in rows
    ]


@replayed
def _measures(images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Measures (B,) and shares of colours (B,) by their names."""
    pictures, grey = _reduced(images), _reduced(luma(images))
    numbers = {
        "brightness": measure.brightness(grey),
        "contrast": measure.contrast(grey),
        "backlight": measure.backlight(grey),
        "colourfulness": measure.colourfulness(pictures),
        "blur": measure.blur(grey),
        "detail": measure.detail(grey),
        "noise": measure.noise(grey),
        "repetition": measure.repetition(grey),
        **measure.lines(grey),
    }
    return numbers, measure.colour_shares(pictures)


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


def light(numbers: Mapping[str, float]) -> list[str]:
    """Words for brightness and contrast."""
    brightness, contrast = numbers["brightness"], numbers["contrast"]
    words = ["dark" if brightness < 0.25 else "bright" if brightness > 0.65 else "well-lit"]
    if numbers["backlight"] > 0.25:
        words = ["backlit"]
    if contrast < 0.35:
        words.append("low-contrast")
    elif contrast > 0.85:
        words.append("high-contrast")
    return words


def colourfulness(numbers: Mapping[str, float]) -> str:
    """A word for the amount of colour."""
    amount = numbers["colourfulness"]
    if amount < 0.012:
        return "black-and-white"
    return "muted" if amount < 0.11 else "colourful" if amount < 0.25 else "very colourful"


def focus(numbers: Mapping[str, float]) -> str:
    """Words for sharpness."""
    blur = numbers["blur"]
    return "in sharp focus" if blur < 0.42 else "in soft focus" if blur < 0.6 else "blurred"


def texture(numbers: Mapping[str, float]) -> list[str]:
    """Words for noise, texture and lines, at least one."""
    detail, noise = numbers["detail"], numbers["noise"]
    words = ["smooth areas" if detail < 0.03 else "fine detail" if detail > 0.09 else "some detail"]
    if numbers["repetition"] > 0.35:
        words.append("a repeating pattern")
    strongest = max(("horizontal", "vertical", "diagonal"), key=lambda name: numbers[name])
    if numbers[strongest] > 0.4:
        words.append(f"{strongest} lines")
    if noise > 0.05:
        words.append("strong noise")
    elif noise > 0.015 and detail < 0.13:  # in finer detail than that nothing is flat enough to tell
        words.append("grain")
    return words

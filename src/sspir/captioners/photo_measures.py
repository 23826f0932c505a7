"""Measures of a photo, which the measured captions put into words.

Every function takes one picture (1, 3, H, W) or its luma (1, 1, H, W), float32 in [0, 1], of any size.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE, _LAG = 128, 48  # pixels: the picture in which repetition is sought, and the longest period

# Name, hue from and to in degrees, for what black to brown (below) leave over
_HUES = {
    "red": (345, 375),
    "orange": (15, 42),
    "yellow": (42, 68),
    "green": (68, 165),
    "turquoise": (165, 195),
    "blue": (195, 255),
    "purple": (255, 300),
    "pink": (300, 345),
}


def brightness(grey: Tensor) -> float:
    """Mean luma, 0 black to 1 white."""
    return float(grey.mean())


def contrast(grey: Tensor) -> float:
    """Luma between the darkest and the brightest twentieth, 0 to 1."""
    low, high = torch.quantile(_thinned(grey), torch.tensor([0.05, 0.95]))
    return float(high - low)


def backlight(grey: Tensor) -> float:
    """How much brighter the upper and outer parts are than the middle, where the subject stands; may be negative."""
    cells = F.adaptive_avg_pool2d(grey, (4, 4))[0, 0]
    outside = torch.cat([cells[0], cells[1:3, 0], cells[1:3, 3]])
    return float(outside.mean() - cells[1:, 1:3].mean())


def colourfulness(picture: Tensor) -> float:
    """Hasler and Suesstrunk, "Measuring colourfulness in natural images", 2003, in units of white."""
    red, green, blue = picture[0]
    red_green, yellow_blue = red - green, 0.5 * (red + green) - blue
    spread = (red_green.var(correction=0) + yellow_blue.var(correction=0)).sqrt()
    return float(spread + 0.3 * (red_green.mean() ** 2 + yellow_blue.mean() ** 2).sqrt())


def dominant_colours(picture: Tensor) -> list[str]:
    """Names of the one or two colours that fill most of the picture, most first."""
    names, shares = zip(*_colour_shares(picture).items(), strict=True)
    order = sorted(range(len(names)), key=lambda index: -shares[index])
    return [names[index] for index in order[:2] if shares[index] > 0.15] or [names[order[0]]]


def _colour_shares(picture: Tensor) -> dict[str, float]:
    small = F.adaptive_avg_pool2d(picture, (48, 48))[0].flatten(1)
    value, low = small.amax(dim=0), small.amin(dim=0)
    chroma = value - low
    saturation = chroma / value.clamp_min(1e-6)
    hue = _hue(small, value, chroma)
    left = torch.ones_like(value, dtype=torch.bool)
    shares: dict[str, float] = {}

    def take(name: str, mask: Tensor) -> None:
        shares[name] = shares.get(name, 0.0) + float((mask & left).float().mean())
        left.logical_and_(~mask)

    take("black", value < 0.15)
    take("white", (saturation < 0.12) & (value > 0.85))
    take("grey", (saturation < 0.15) | (chroma < 0.06))
    warm = (hue >= 10) & (hue < 68)
    take("beige", warm & (saturation < 0.4) & (value > 0.6))
    take("olive", (hue >= 42) & (hue < 68) & ((value < 0.6) | (saturation < 0.4)))
    take("brown", warm & (value < 0.65))
    take("pink", ((hue >= 345) | (hue < 15)) & (saturation < 0.5) & (value > 0.7))
    for name, (start, end) in _HUES.items():
        take(name, (hue >= start) & (hue < end) | (hue + 360 < end))
    return shares


def _hue(small: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Hue in degrees, 0 to 360, of colours (3, N)."""
    red, green, blue = small
    chroma = chroma.clamp_min(1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / chroma % 6,
        torch.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    return sector * 60


def blur(grey: Tensor) -> float:
    """Perceptual blur, 0 sharp to 1: what a further blur leaves of the differences between neighbours.

    Crété-Roffet et al., "The blur effect", 2007, with its kernel of 9.
    """
    effects = []
    for image in (grey, grey.transpose(2, 3)):
        again = F.avg_pool2d(F.pad(image, (0, 0, 4, 4), mode="replicate"), (9, 1), stride=1)
        before, after = image.diff(dim=2).abs(), again.diff(dim=2).abs()
        lost = (before - after).clamp_min(0).sum()
        effects.append(1 - float(lost / before.sum().clamp_min(1e-6)))
    return max(effects)


def noise(grey: Tensor) -> float:
    """Standard deviation of white noise, in units of white: what a fifth of the blocks of 16 x 16 pixels stay below.

    Immerkær, "Fast noise variance estimation", 1996, taken where texture does not disturb it.
    """
    kernel = grey.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[None, None] / 6
    residual = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel).abs() * (torch.pi / 2) ** 0.5
    return float(torch.quantile(F.avg_pool2d(residual, 16, ceil_mode=True).flatten(), 0.2))


def detail(grey: Tensor) -> float:
    """Mean difference between pixels and their surroundings of 9 x 9, relative to the picture's contrast."""
    return float((grey - _surroundings(grey, 4)).abs().mean() / max(contrast(grey), 0.1))


def lines(grey: Tensor) -> dict[str, float]:
    """Share of the edges within 15 degrees of "horizontal", "vertical" and the stronger "diagonal"; 1/6 by chance."""
    smooth = F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    down, right = smooth.diff(dim=2)[..., :-1], smooth.diff(dim=3)[..., :-1, :]
    strength = down**2 + right**2
    angle = torch.rad2deg(torch.atan2(down, right)) % 180  # of the change: 90 across a horizontal edge
    total = float(strength.sum().clamp_min(1e-9))

    def share(middle: float) -> float:
        apart = (angle - middle).abs()
        return float(strength[torch.minimum(apart, 180 - apart) < 15].sum()) / total

    return {"horizontal": share(90), "vertical": share(0), "diagonal": max(share(45), share(135))}


def repetition(grey: Tensor) -> float:
    """How like itself the picture is when moved by one period of its pattern, 0 to 1: peak of its autocorrelation."""
    small = F.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    small = small - _surroundings(small, 8)
    likeness = _autocorrelation(small[0, 0] * _window()) / _overlap()
    likeness = likeness / likeness[_LAG, _LAG].clamp_min(1e-9)
    lag = torch.arange(-_LAG, _LAG + 1)
    distance = (lag[:, None] ** 2 + lag[None, :] ** 2).float().sqrt()
    half = likeness[(lag // 2 + _LAG)[:, None], (lag // 2 + _LAG)[None, :]]
    # A long edge is like itself at every distance along it; a pattern is not at half its period
    peaks = likeness.where((distance > 6) & (distance < _LAG) & (half < 0.5 * likeness), torch.zeros(()))
    return float(peaks.max())


def _autocorrelation(image: Tensor) -> Tensor:
    """Autocorrelation (2 _LAG + 1, 2 _LAG + 1) of an image (_SIDE, _SIDE), at shifts of -_LAG to _LAG both ways."""
    padded = (_SIDE + _LAG,) * 2  # so that a shifted image does not wrap around
    power = torch.fft.rfft2(image, s=padded).abs() ** 2
    return torch.fft.irfft2(power, s=padded).roll((_LAG, _LAG), dims=(0, 1))[: 2 * _LAG + 1, : 2 * _LAG + 1]


@cache
def _window() -> Tensor:
    edge = torch.hann_window(_SIDE, periodic=False)
    return torch.outer(edge, edge)


@cache
def _overlap() -> Tensor:
    """Autocorrelation of the window alone, by which one of a windowed image is divided."""
    return _autocorrelation(_window())


def _surroundings(grey: Tensor, radius: int) -> Tensor:
    """Mean over the square of 2 radius + 1 pixels a side around each pixel of (1, 1, H, W)."""
    side = 2 * radius + 1
    padded = F.pad(grey, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), stride=1), (1, side), stride=1)


def _thinned(grey: Tensor, most: int = 100_000) -> Tensor:
    """At most `most` of the values, evenly spaced."""
    values = grey.flatten()
    return values[:: -(-len(values) // most)]

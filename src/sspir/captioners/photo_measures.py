"""Measures of photos, which the measured captions put into words.

Every function takes pictures (B, 3, H, W) or their luma (B, 1, H, W), float32 in [0, 1], of any size, and gives
numbers (B,). It never waits for a GPU.
"""

from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.device import constant, kept_on_device

_SIDE, _LAG = 128, 48  # pixels: the picture in which repetition is sought, and the longest period
_MOST = 100_000  # values of a picture that are sorted

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


def brightness(grey: Tensor) -> Tensor:
    """Mean luma, 0 black to 1 white."""
    return grey.flatten(1).mean(dim=1)


def contrast(grey: Tensor) -> Tensor:
    """Luma between the darkest and the brightest twentieth, 0 to 1."""
    low, high = torch.quantile(_thinned(grey), constant((0.05, 0.95), grey), dim=1)
    return high - low


def backlight(grey: Tensor) -> Tensor:
    """How much brighter the upper and outer parts are than the middle, where the subject stands; may be negative."""
    cells = F.adaptive_avg_pool2d(grey, (4, 4))[:, 0]
    outside = torch.cat([cells[:, 0], cells[:, 1:3, 0], cells[:, 1:3, 3]], dim=1)
    return outside.mean(dim=1) - cells[:, 1:, 1:3].flatten(1).mean(dim=1)


def colourfulness(picture: Tensor) -> Tensor:
    """Hasler and Suesstrunk, "Measuring colourfulness in natural images", 2003, in units of white."""
    red, green, blue = picture.flatten(2).unbind(dim=1)
    red_green, yellow_blue = red - green, 0.5 * (red + green) - blue
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    return spread + 0.3 * (red_green.mean(dim=1) ** 2 + yellow_blue.mean(dim=1) ** 2).sqrt()


def dominant_colours(shares: Mapping[str, float]) -> list[str]:
    """Names of the one or two colours that fill most of a picture, most first, from its `colour_shares`."""
    order = sorted(shares, key=lambda name: -shares[name])  # equal ones in their own order
    return [name for name in order[:2] if shares[name] > 0.15] or order[:1]


def colour_shares(picture: Tensor) -> dict[str, Tensor]:
    """Share of the picture that each colour fills, by its name."""
    small = F.adaptive_avg_pool2d(picture, (48, 48)).flatten(2)
    value, low = small.amax(dim=1), small.amin(dim=1)
    chroma = value - low
    saturation = chroma / value.clamp_min(1e-6)
    hue = _hue(small, value, chroma)
    left = torch.ones_like(value, dtype=torch.bool)
    shares: dict[str, Tensor] = {}

    def take(name: str, mask: Tensor) -> None:
        share = (mask & left).float().mean(dim=1)
        shares[name] = shares[name] + share if name in shares else share
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
    """Hue in degrees, 0 to 360, of colours (B, 3, N)."""
    red, green, blue = small.unbind(dim=1)
    chroma = chroma.clamp_min(1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / chroma % 6,
        torch.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    return sector * 60


def blur(grey: Tensor) -> Tensor:
    """Perceptual blur, 0 sharp to 1: what a further blur leaves of the differences between neighbours.

    Crété-Roffet et al., "The blur effect", 2007, with its kernel of 9.
    """
    effects = []
    for image in (grey, grey.transpose(2, 3)):
        again = F.avg_pool2d(F.pad(image, (0, 0, 4, 4), mode="replicate"), (9, 1), stride=1)
        before, after = image.diff(dim=2).abs(), again.diff(dim=2).abs()
        lost = (before - after).clamp_min(0).flatten(1).sum(dim=1)
        effects.append(1 - lost / before.flatten(1).sum(dim=1).clamp_min(1e-6))
    return torch.maximum(*effects)


def noise(grey: Tensor) -> Tensor:
    """Standard deviation of white noise, in units of white: what a fifth of the blocks of 16 x 16 pixels stay below.

    Immerkær, "Fast noise variance estimation", 1996, taken where texture does not disturb it.
    """
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    kernel = constant(((1, -2, 1), (-2, 4, -2), (1, -2, 1)), grey)[None, None] / 6
    residual = F.conv2d(padded, kernel).abs() * (torch.pi / 2) ** 0.5
    return torch.quantile(F.avg_pool2d(residual, 16, ceil_mode=True).flatten(1), 0.2, dim=1)


def detail(grey: Tensor) -> Tensor:
    """Mean difference between pixels and their surroundings of 9 x 9, relative to the picture's contrast."""
    return (grey - _surroundings(grey, 4)).abs().flatten(1).mean(dim=1) / contrast(grey).clamp_min(0.1)


def lines(grey: Tensor) -> dict[str, Tensor]:
    """Share of the edges within 15 degrees of "horizontal", "vertical" and the stronger "diagonal"; 1/6 by chance."""
    smooth = F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    down, right = smooth.diff(dim=2)[..., :-1], smooth.diff(dim=3)[..., :-1, :]
    strength = down**2 + right**2
    angle = torch.rad2deg(torch.atan2(down, right)) % 180  # of the change: 90 across a horizontal edge
    total = strength.flatten(1).sum(dim=1).clamp_min(1e-9)

    def share(middle: float) -> Tensor:
        apart = (angle - middle).abs()
        return strength.where(torch.minimum(apart, 180 - apart) < 15, 0.0).flatten(1).sum(dim=1) / total

    return {"horizontal": share(90), "vertical": share(0), "diagonal": torch.maximum(share(45), share(135))}


def repetition(grey: Tensor) -> Tensor:
    """How like itself the picture is when moved by one period of its pattern, 0 to 1: peak of its autocorrelation."""
    small = F.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    small = small - _surroundings(small, 8)
    likeness = _autocorrelation(small[:, 0] * _window(grey.device)) / _overlap(grey.device)
    likeness = likeness / likeness[:, _LAG : _LAG + 1, _LAG : _LAG + 1].clamp_min(1e-9)
    half = likeness.flatten(1)[:, _halves(grey.device)].view_as(likeness)
    # A long edge is like itself at every distance along it; a pattern is not at half its period
    peaks = likeness.where(_periods(grey.device) & (half < 0.5 * likeness), 0.0)
    return peaks.flatten(1).amax(dim=1)


def _autocorrelation(images: Tensor) -> Tensor:
    """Autocorrelation (..., 2 _LAG + 1, 2 _LAG + 1) of images (..., _SIDE, _SIDE), at shifts of -_LAG to _LAG."""
    padded = (_SIDE + _LAG,) * 2  # so that a shifted image does not wrap around
    power = torch.fft.rfft2(images, s=padded).abs() ** 2
    return torch.fft.irfft2(power, s=padded).roll((_LAG, _LAG), dims=(-2, -1))[..., : 2 * _LAG + 1, : 2 * _LAG + 1]


@kept_on_device
@cache
def _window() -> Tensor:
    edge = torch.hann_window(_SIDE, periodic=False)
    return torch.outer(edge, edge)


@kept_on_device
@cache
def _overlap() -> Tensor:
    """Autocorrelation of the window alone, by which one of a windowed image is divided."""
    return _autocorrelation(_window(torch.device("cpu")))


@kept_on_device
@cache
def _halves() -> Tensor:
    """Place, in a flat autocorrelation, of half the shift of every place."""
    half = torch.arange(-_LAG, _LAG + 1) // 2 + _LAG
    return (half[:, None] * (2 * _LAG + 1) + half[None, :]).flatten()


@kept_on_device
@cache
def _periods() -> Tensor:
    """True at the shifts of an autocorrelation that may be a period."""
    lag = torch.arange(-_LAG, _LAG + 1)
    distance = (lag[:, None] ** 2 + lag[None, :] ** 2).float().sqrt()
    return (distance > 6) & (distance < _LAG)


def _surroundings(grey: Tensor, radius: int) -> Tensor:
    """Mean over the square of 2 radius + 1 pixels a side around each pixel of (B, 1, H, W)."""
    side = 2 * radius + 1
    padded = F.pad(grey, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), stride=1), (1, side), stride=1)


def _thinned(grey: Tensor) -> Tensor:
    """Some of each picture's values (B, n), evenly spaced."""
    values = grey.flatten(1)
    return values[:, :: -(-values.shape[1] // _MOST)]

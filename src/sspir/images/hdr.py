"""Wide and bright colours to sRGB: colours that files name by numbers, PQ and HLG among them, and gain maps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sspir.images import jxl
from sspir.images.kinds import brands_of
from sspir.images.picture import Pixels

_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273
_UNSPECIFIED = 2
GAIN_MAP = "The photo's HDR gain map is left out: it is restored as plain screens (SDR) show it."
"""Sentence about a file of which `holds_gain_map` is true."""
BRIGHT = "The photo is HDR (PQ or HLG); it was brought to the brightness of plain screens (SDR)."
"""Sentence about such a file."""
_GAIN_MAPS = (b"http://ns.adobe.com/hdr-gain-map/1.0/", b"urn:iso:std:iso:ts:21496:-1", b":aux:hdrgainmap")
_CORNERS = {  # primaries of H.273 that differ from sRGB's -> x and y of red, green and blue; white is D65
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_SRGB_CORNERS = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_WHITE = (0.3127, 0.3290)
_WHITE_NITS, _PEAK_NITS = 203, 1000  # of paper in an HDR picture, and of its brightest lamp (BT.2408)
_KNEE = 0.5
_ROWS = 256


def holds_gain_map(data: bytes) -> bool:
    """Whether a file carries a map beside its photo that makes it HDR; JPEG, HEIC, AVIF and JPEG XL do."""
    if data.startswith(jxl.BOXED):
        return any(name == b"jhgm" for name, _, _ in jxl.boxes(data))
    return b"tmap" in brands_of(data) or any(mark in data for mark in _GAIN_MAPS)


@dataclass(frozen=True)
class Coding:
    """How values stand for colours, in the numbers of ITU-T H.273.

    Attributes:
        primaries: red, green and blue.
        transfer: from values to light; others than PQ and HLG are taken as sRGB's, as browsers do.
    """

    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED

    @property
    def is_bright(self) -> bool:
        """Whether the colours are HDR's."""
        return self.transfer in (_PQ, _HLG)

    def counts_before(self, icc: bytes) -> bool:
        """Whether the numbers say more than a profile: where there is none, and for HDR, which profiles only guess."""
        return self.is_bright or not icc


SRGB = Coding(1, 13)


def coding_of(data: bytes) -> Coding:
    """How an AVIF file codes its colours."""
    at = data.find(b"colrnclx") + 8
    if at < 8 or at + 4 > len(data):
        return Coding()
    return Coding(int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4]))


def avif_bits(data: bytes) -> int:
    """Bits per value of an AVIF file, by its decoder's configuration box."""
    at = data.find(b"av1C") + 6
    flags = data[at] if 6 <= at < len(data) else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def coding_of_profile(icc: bytes) -> Coding:
    """What a colour profile stands for, where it says so in its tag cicp, as those of JPEG XL do."""
    at = icc.find(b"cicp\0\0\0\0") + 8
    return Coding(icc[at], icc[at + 1]) if 8 <= at < len(icc) - 1 else Coding()


def to_srgb(pixels: Pixels, coding: Coding, warnings: list[str]) -> Pixels:
    """Colours that are named by numbers, in sRGB.

    PQ and HLG are shown as a screen without HDR would: paper white a little below white, and what is brighter pressed
    together above it, by equation 4 of Reinhard et al. 2002 beyond a knee, in the brightest channel, so that hues stay.

    Args:
        pixels: (H, W, 3) uint8 or uint16.
        coding: of the file.
        warnings: gets a sentence about what was done.
    """
    if coding.is_bright:
        warnings.append(BRIGHT)
    elif coding.primaries in _CORNERS:
        warnings.append("Colours were converted to sRGB from a wider range.")
    else:
        return pixels
    peak = np.iinfo(pixels.dtype).max
    levels = _light(np.arange(peak + 1, dtype=np.float32) / peak, coding.transfer)
    matrix = np.linalg.inv(_to_xyz(_SRGB_CORNERS)) @ _to_xyz(_CORNERS.get(coding.primaries, _SRGB_CORNERS))
    converted = np.empty_like(pixels)
    for top in range(0, len(pixels), _ROWS):
        light = np.maximum(levels[pixels[top : top + _ROWS]] @ matrix.T.astype(np.float32), 0)
        light = _pressed(light) if coding.is_bright else light
        converted[top : top + _ROWS] = (_srgb_values(np.minimum(light, 1)) * peak).round()
    return converted


def _light(values: Any, transfer: int) -> Any:
    """Values in [0, 1] as light; 1 is white."""
    if transfer == _PQ:  # BT.2100, table 4
        root = values ** (1 / 78.84375)
        nits = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return np.minimum(nits, _PEAK_NITS) / _WHITE_NITS
    if transfer == _HLG:  # BT.2100, table 5, with its gamma for 1000 nits in each channel
        scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        return (_PEAK_NITS / _WHITE_NITS) * scene**1.2
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb_values(light: Any) -> Any:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _pressed(light: Any) -> Any:
    """Light (H, W, 3) with its brightest channel in [0, 1]."""
    most = light.max(axis=2, keepdims=True)
    over = np.maximum(most - _KNEE, 0) / (1 - _KNEE)
    end = (_PEAK_NITS / _WHITE_NITS - _KNEE) / (1 - _KNEE)
    pressed = np.minimum(most, _KNEE) + (1 - _KNEE) * over * (1 + over / end**2) / (1 + over)
    return light * (pressed / np.maximum(most, 1e-6))


def _to_xyz(corners: tuple[tuple[float, float], ...]) -> Any:
    """The matrix (3, 3) from light of three primaries to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*corners, _WHITE)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])

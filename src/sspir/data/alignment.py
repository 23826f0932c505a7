"""How far the two photos of a pair are shifted, and cutting the shift away."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sspir.images.picture import Pixels

LIKENESS = 0.7
"""Correlation of both photos, moved onto each other, below which their shift is not known."""

_WINDOW = 1024  # pixels of the low-quality photo that are looked at, from its centre
_BLUR = 5  # pixels; blur and noise differ between the two photos, so that fine detail says little
_BAND = 0.12  # cycles per pixel: what phases are believed, as a Gaussian's deviation
_END = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)


class Shift(NamedTuple):
    """How far the content of hq lies from that of lq: hq at (y + down, x + right) shows what lq shows at (y, x).

    Attributes:
        down: pixels of hq.
        right: pixels of hq.
        likeness: correlation of both once they are moved onto each other, up to 1.
    """

    down: float
    right: float
    likeness: float

    @property
    def largest(self) -> float:
        """The larger of both, pixels of hq."""
        return max(abs(self.down), abs(self.right))


def measure_shift(hq: Pixels, lq: Pixels) -> Shift:
    """Measure the shift between the photos of a pair, to about a tenth of a low-quality pixel.

    Phase correlation (Kuglin and Hines 1975) of low frequencies finds it to a whole pixel of lq, wherever it is;
    enhanced correlation (Evangelidis and Psarakis 2008), which brightness and contrast do not move, refines it.

    Args:
        hq: (H, W, 3), a whole number of times as large as `lq`.
        lq: (h, w, 3).
    """
    scale = hq.shape[0] // lq.shape[0]
    small = cv2.resize(hq, (lq.shape[1], lq.shape[0]), interpolation=cv2.INTER_AREA) if scale > 1 else hq
    moved, still = _centre_luma(small), _centre_luma(lq)
    down, right = _whole_shift(moved, still)
    warp = np.array([[1, 0, right], [0, 1, down]], dtype=np.float32)
    try:
        likeness, warp = cv2.findTransformECC(still, moved, warp, cv2.MOTION_TRANSLATION, _END, None, _BLUR)
    except cv2.error:  # it does not converge: nothing of the one is found in the other
        return Shift(scale * float(down), scale * float(right), 0.0)
    return Shift(scale * float(warp[1, 2]), scale * float(warp[0, 2]), float(likeness))


def align(hq: Pixels, lq: Pixels, shift: Shift) -> tuple[Pixels, Pixels]:
    """Cut both photos to what they share: hq at whole pixels of its own, lq at whole pixels of its own.

    Nothing is resampled; up to half a pixel of hq stays of the shift.
    """
    scale = hq.shape[0] // lq.shape[0]
    rows, low_rows = _shared(round(shift.down), lq.shape[0], scale)
    columns, low_columns = _shared(round(shift.right), lq.shape[1], scale)
    return hq[rows, columns], lq[low_rows, low_columns]


def _shared(shift: int, length: int, scale: int) -> tuple[slice, slice]:
    """Places of hq and of lq along one axis; `shift` in pixels of hq, `length` in pixels of lq."""
    lost = -(-abs(shift) // scale)
    first = lost if shift < 0 else 0
    start = first * scale + shift
    kept = length - lost
    return slice(start, start + kept * scale), slice(first, first + kept)


def _centre_luma(pixels: Pixels) -> NDArray[np.float32]:
    height, width = (min(side, _WINDOW) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.iinfo(pixels.dtype).max


def _whole_shift(moved: NDArray[np.float32], still: NDArray[np.float32]) -> tuple[int, int]:
    """Rows and columns by which `moved` must be read further on to show what `still` shows."""
    window = np.outer(*(np.hanning(side) for side in still.shape))
    one, two = (np.fft.rfft2((each - each.mean()) * window) for each in (moved, still))
    cross = one * two.conj()
    rows, columns = np.fft.fftfreq(still.shape[0])[:, None], np.fft.rfftfreq(still.shape[1])[None]
    believed = np.exp(-(rows**2 + columns**2) / (2 * _BAND**2)) / (np.abs(cross) + 1e-12)
    peaks = np.fft.irfft2(cross * believed, s=still.shape)
    place = np.unravel_index(int(peaks.argmax()), peaks.shape)
    return tuple(int((at + side // 2) % side - side // 2) for at, side in zip(place, peaks.shape, strict=True))  # type: ignore[return-value]  # 2 axes

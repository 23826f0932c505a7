"""Cutting training patches out of photos."""

from collections.abc import Sequence

import cv2
import numpy as np

from sspir.degradation.operation import checked_range
from sspir.errors import UserError
from sspir.images.picture import Pixels as Pixels


class Crop:
    """A square patch of a photo, at random for training or from its centre for validation.

    A photo smaller than the patch is enlarged until it fits.

    Args:
        size: side of the patch, pixels of the high-quality image.
        resize: range of the factor by which a photo is resized before it is cut; the default is its native scale.
            Centre crops and pairs keep their scale.
        flip: mirror half of the random patches.
        rotate: turn random patches by a random multiple of 90 degrees.
    """

    def __init__(
        self, size: int, resize: Sequence[float] = (1.0, 1.0), flip: bool = True, rotate: bool = False
    ) -> None:
        if size < 1:
            raise UserError(f"Crop.size is {size}: give the side of the patch, 1 pixel or more.")
        self.size = size
        self.resize = checked_range("Crop.resize", resize, 0.05, 20)
        self.flip = flip
        self.rotate = rotate

    def centre(self, hq: Pixels, lq: Pixels | None = None) -> tuple[Pixels, Pixels | None]:
        """Cut the centre of a photo, or of both photos of a pair; (H, W, 3) -> (size, size, 3)."""
        return self._cut(hq, lq, 1.0, 0.5, 0.5)

    def random(self, hq: Pixels, lq: Pixels | None, seed: int) -> tuple[Pixels, Pixels | None]:
        """Cut, mirror and turn as drawn from the seed, a photo or both photos of a pair alike."""
        generator = np.random.default_rng(seed)
        factor, top, left, mirror = generator.uniform(size=4)
        turns = int(generator.integers(4)) if self.rotate else 0
        low, high = self.resize
        # uniform in the logarithm: halving is as likely as doubling
        patches = self._cut(hq, lq, float(low * (high / low) ** factor), float(top), float(left))
        return tuple(_turned(patch, self.flip and mirror < 0.5, turns) for patch in patches)  # type: ignore[return-value]  # as many as came

    def _cut(
        self, hq: Pixels, lq: Pixels | None, factor: float, top: float, left: float
    ) -> tuple[Pixels, Pixels | None]:
        if lq is not None:
            return self._cut_pair(hq, lq, top, left)
        factor = max(factor, self.size / min(hq.shape[:2]))
        side = min(max(1, round(self.size / factor)), *hq.shape[:2])
        return _resized(_window(hq, side, top, left), self.size), None

    def require_fit(self, hq: Sequence[int], scale: int, setting: str = "crop.size") -> None:
        """Refuse pairs of which no patch can be cut.

        Args:
            hq: height and width of the high-quality photo, pixels.
            scale: how much smaller the other one is.
            setting: the key of `size`, for the message.

        Raises:
            UserError: the photo is smaller than the patch, or the patch no multiple of the scale.
        """
        if self.size % scale or min(hq) < self.size:
            raise UserError(
                f"A patch of {self.size} pixels does not fit a pair of {hq[1]}x{hq[0]} pixels at scale {scale}: set "
                f"{setting} to a multiple of {scale} of at most {min(hq)}."
            )

    def _cut_pair(self, hq: Pixels, lq: Pixels, top: float, left: float) -> tuple[Pixels, Pixels]:
        scale = hq.shape[0] // lq.shape[0]
        self.require_fit(hq.shape[:2], scale)
        small = self.size // scale
        row, column = (
            int(place * (length - small + 1)) for place, length in zip((top, left), lq.shape[:2], strict=True)
        )
        row, column = min(row, lq.shape[0] - small), min(column, lq.shape[1] - small)
        window = lq[row : row + small, column : column + small]
        row, column = row * scale, column * scale
        return hq[row : row + self.size, column : column + self.size], window


def _window(pixels: Pixels, side: int, top: float, left: float) -> Pixels:
    """Cut a square (side, side, 3); `top` and `left` are fractions, 0 to 1, of how far it can move."""
    row = min(int(top * (pixels.shape[0] - side + 1)), pixels.shape[0] - side)
    column = min(int(left * (pixels.shape[1] - side + 1)), pixels.shape[1] - side)
    return pixels[row : row + side, column : column + side]


def _resized(pixels: Pixels, side: int) -> Pixels:
    if pixels.shape[0] == side:
        return pixels
    shrinks = pixels.shape[0] > side
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _turned(patch: Pixels | None, mirrored: bool, turns: int) -> Pixels | None:
    if patch is None:
        return None
    return np.rot90(patch[:, ::-1] if mirrored else patch, turns)

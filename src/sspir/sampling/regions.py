"""Images of any size in bounded memory: regions restored one after the other and faded into each other.

Within a region the sampler blends tiles at every step (`sspir.models.tiling`). Regions meet only as finished pixels,
which is why nothing of the whole image but the low-quality one and the result has to be in memory. Neighbours start
from the same noise where they overlap, so that they invent the same detail there.
"""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

_CELL = 64  # latents per side of a block of noise


class Span(NamedTuple):
    """Part of an image's height or width, in pixels.

    Attributes:
        start: first pixel.
        stop: one past the last.
        fade_in: pixels at its beginning that it shares with the part before.
        fade_out: pixels at its end that it shares with the part after.
    """

    start: int
    stop: int
    fade_in: int
    fade_out: int

    def weights(self) -> Tensor:
        """(stop - start,) float32; those of neighbours add up to 1 in every pixel."""
        weights = torch.ones(self.stop - self.start)
        if self.fade_in:
            weights[: self.fade_in] = _ramp(self.fade_in)
        if self.fade_out:
            weights[-self.fade_out :] = 1 - _ramp(self.fade_out)
        return weights


def _ramp(length: int) -> Tensor:
    return (torch.arange(length) + 0.5) / length


def spans_of(length: int, side: int, overlap: int, multiple: int) -> list[Span]:
    """Parts of equal length that cover `length` pixels, each starting at a multiple; the last may be shorter.

    Args:
        length: of the image, pixels.
        side: largest length of a part, pixels, but for what a multiple adds.
        overlap: of neighbours, pixels; less than half of `side`.
        multiple: of the places where parts start, pixels.
    """
    if length <= side:
        return [Span(0, length, 0, 0)]
    count = math.ceil((length - overlap) / (side - overlap))
    stride = math.ceil((length - overlap) / count / multiple) * multiple
    starts = range(0, length - overlap, stride)
    stops = [min(start + stride + overlap, length) for start in starts]
    return [
        Span(start, stop, overlap if start else 0, overlap if stop < length else 0)
        for start, stop in zip(starts, stops, strict=True)
    ]


class Upscaler:
    """Computes parts of the image that `sspir.models.latent.upscale` would make, up to rounding, without the whole.

    Args:
        lq: (B, 3, h, w) in [0, 1].
        size: (H, W) of the whole.
    """

    def __init__(self, lq: Tensor, size: tuple[int, int]) -> None:
        self.lq, self.size = lq, size

    def __call__(self, rows: Span, columns: Span) -> Tensor:
        """(B, 3, rows, columns) in [0, 1]."""
        (height, width), (new_height, new_width) = self.lq.shape[-2:], self.size
        top, across = _resizing(height, new_height, rows)
        left, along = _resizing(width, new_width, columns)
        part = self.lq[..., top : top + across.shape[1], left : left + along.shape[1]]
        return (across.to(part) @ part @ along.to(part).T).clamp(0, 1)


def _resizing(old: int, new: int, span: Span) -> tuple[int, Tensor]:
    """The first of the old pixels that a span of the new ones is made of, and its matrix (new, old): torch's bicubic.

    Resizing is linear in each direction; enlarging takes the cubic of Keys 1981 with a of -.5, reducing a wider one.
    """
    step = old / new
    width = max(step, 1.0)
    centres = (torch.arange(span.start, span.stop, dtype=torch.float64) + 0.5) * step
    first = max(0, int(centres[0] - 2 * width))
    last = min(old, math.ceil(centres[-1] + 2 * width))
    far = (torch.arange(first, last) + 0.5 - centres[:, None]).abs() / width
    near = (1.5 * far - 2.5) * far**2 + 1
    beyond = ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights = torch.where(far < 1, near, torch.where(far < 2, beyond, 0))
    return first, (weights / weights.sum(dim=1, keepdim=True)).float()


def noise_at(seed: int, channels: int, top: int, left: int, height: int, width: int) -> Tensor:
    """White noise (1, channels, height, width) that is the same at the same place of a latent, whoever asks.

    Args:
        seed: of the whole image.
        channels: of the latent.
        top: row of the latent, as the others in latent pixels.
        left: column.
        height: of the part.
        width: of the part.
    """
    part = torch.empty(1, channels, height, width)
    for row in range(top // _CELL, (top + height - 1) // _CELL + 1):
        for column in range(left // _CELL, (left + width - 1) // _CELL + 1):
            digest = hashlib.blake2b(f"{seed}\n{row}\n{column}".encode(), digest_size=4).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest))  # of which the CPU's uses 32 bits
            cell = torch.randn(channels, _CELL, _CELL, generator=generator)
            y, x = row * _CELL - top, column * _CELL - left
            inside = cell[:, max(0, -y) : height - y, max(0, -x) : width - x]
            part[0, :, max(0, y) : max(0, y) + inside.shape[1], max(0, x) : max(0, x) + inside.shape[2]] = inside
    return part

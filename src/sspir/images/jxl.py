"""The header of a JPEG XL file, without a decoder: what there is to know before anything is decoded.

Source: ISO/IEC 18181-1 (codestream: SizeHeader, ImageMetadata) and 18181-2 (the boxes around it).
"""

from collections.abc import Iterator
from dataclasses import dataclass

BARE, BOXED = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, in the order of their numbers
_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))  # least value, and bits of what is added to it
_PREVIEWS = (
    ((16, 0), (32, 0), (1, 5), (33, 9)),
    ((1, 6), (65, 8), (321, 10), (1345, 12)),
)  # in eights of pixels, in pixels
_DEPTHS = (((8, 0), (10, 0), (12, 0), (1, 6)), ((32, 0), (16, 0), (24, 0), (1, 6)))  # of integers, of floats


@dataclass(frozen=True)
class JxlHeader:
    """What a file says of its picture.

    Attributes:
        size: width and height, before the picture is turned.
        animated: whether there are several pictures.
        bits: per value; 0 of an animation, which is not looked at further.
        floating: whether the values are no integers.
    """

    size: tuple[int, int]
    animated: bool = False
    bits: int = 8
    floating: bool = False


def read_header(data: bytes) -> JxlHeader:
    """The header of a file that starts with `BARE` or `BOXED`.

    Raises:
        ValueError: the file is cut off within its header.
    """
    bits = _Bits(_codestream(data))
    size = _size(bits)
    if bits.take(1):  # all that follows is as by default
        return JxlHeader(size)
    if bits.take(1):
        bits.take(3)  # orientation, which the decoder applies
        if bits.take(1):
            _size(bits)  # that it is meant to be shown at
        if bits.take(1):
            _skip_preview(bits)
        if bits.take(1):
            return JxlHeader(size, animated=True, bits=0)
    floating = bool(bits.take(1))
    return JxlHeader(size, False, bits.choose(_DEPTHS[floating]), floating)


class _Bits:
    """Numbers of a few bits each, the lowest bits first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data[:64], "little")
        self._count = 8 * len(data[:64])

    def take(self, count: int) -> int:
        if count > self._count:
            raise ValueError("its header is cut off")
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        self._count -= count
        return value

    def choose(self, choices: tuple[tuple[int, int], ...]) -> int:
        """A number that two bits say how to read: the least value of a choice, and as many bits more."""
        least, more = choices[self.take(2)]
        return least + self.take(more)


def _size(bits: _Bits) -> tuple[int, int]:
    eights = bits.take(1)
    height = 8 * (1 + bits.take(5)) if eights else bits.choose(_SIDES)
    if ratio := bits.take(3):
        over, under = _RATIOS[ratio - 1]
        return height * over // under, height
    return (8 * (1 + bits.take(5)) if eights else bits.choose(_SIDES)), height


def _skip_preview(bits: _Bits) -> None:
    sides = _PREVIEWS[0] if bits.take(1) else _PREVIEWS[1]
    bits.choose(sides)
    if not bits.take(3):
        bits.choose(sides)


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each box of a file that starts with `BOXED`."""
    at = len(BOXED)
    while at + 8 <= len(data):
        length, name, begin = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], at + 8
        if length == 1:
            length, begin = int.from_bytes(data[begin : begin + 8]), begin + 8
        at = max(at + length, begin) if length else len(data)
        yield name, begin, at


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream, behind its mark."""
    stream = data[:66]
    if not data.startswith(BARE):
        numbered = {b"jxlc": 0, b"jxlp": 4}  # bytes before the codestream, of which the second box holds a part
        parts = [data[begin + numbered[name] : end] for name, begin, end in boxes(data) if name in numbered]
        stream = b"".join(part[:66] for part in parts)
    return stream[2:66]

"""Ranges of numbers, by which numbers of users are checked where they come in; and counts in words."""

import math
import operator
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sspir.errors import UserError

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Numbers(Generic[N]):
    """A range of whole or real numbers; an instance can be the `type` of an argparse flag.

    Args:
        kind: int or float.
        least: the smallest.
        most: the largest; infinity and NaN never belong to them.
        above: leave out `least` itself.
        below: leave out `most` itself.
    """

    kind: type[N]
    least: N
    most: N
    above: bool = False
    below: bool = False

    def __call__(self, text: str) -> N:
        """The number in a text.

        Raises:
            ArgumentTypeError: the text is no number of the range.
        """
        try:
            return self._checked(self.kind(text))
        except (ValueError, OverflowError):
            raise ArgumentTypeError(self._sentence(text)) from None

    def require(self, name: str, value: Any) -> N:
        """The value as a number, whatever type of number it is.

        Raises:
            UserError: the value is no number of the range; the sentence starts with `name`.
        """
        try:
            return self._checked(self.kind(operator.index(value) if self.kind is int else value + 0.0))
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{name}: {self._sentence(value)}.") from None

    def _checked(self, number: N) -> N:
        if not (self.least <= number <= self.most and math.isfinite(number)):
            raise ValueError
        if (self.above and number == self.least) or (self.below and number == self.most):
            raise ValueError
        return number

    def _sentence(self, value: object) -> str:
        kind = "whole number" if self.kind is int else "number"
        least, most = (format(bound, "," if self.kind is int else ",g") for bound in (self.least, self.most))
        low, high = f"above {least}, up" if self.above else f"from {least}", f"below {most}" if self.below else most
        return f"{value!r} is no {kind} {low} to {high}"


SEED = Numbers(int, 0, 2**63 - 1)
COUNT = Numbers(int, 1, 2**31 - 1)
LIMIT = Numbers(int, 0, 2**31 - 1)
STEPS = Numbers(int, 1, 1000)
TIMESTEP = Numbers(int, 1, 999)
QUALITY = Numbers(int, 1, 100)
SHARE = Numbers(float, 0.0, 1.0)
DECAY = Numbers(float, 0.0, 1.0, below=True)
WEIGHT = Numbers(float, 0.0, 1e9)
GUIDANCE = Numbers(float, 1.0, 1e6)
POSITIVE = Numbers(float, 0.0, 1e9, above=True)
REAL = Numbers(float, -1e6, 1e6)


def counted(count: int, noun: str) -> str:
    """A count in words: "1 photo", "2 photos"."""
    return f"{count} {noun}{'s' * (count != 1)}"

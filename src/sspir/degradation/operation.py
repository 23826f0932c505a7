"""Operations, of which degradations are made: they draw their parameters first and apply them later."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from sspir.errors import UserError
from sspir.numbers import Numbers

Size = tuple[int, int]  # height, width in pixels
Step = dict[str, Any]  # JSON-able: "operation" (the class's name) and its parameters
TRUTH = "Truth."
"""Before the class's name in the steps of a `Truth`."""


class Operation:
    """One way to make an image worse, in two functions: `draw` decides how, `apply` does it.

    A subclass overrides both. `apply` is static: all it needs stands in the step, so that a written list of
    steps can be replayed. A step that changes the image's size says the new one under "size": [height, width].
    """

    def draw(self, generator: Generator, size: Size, target: Size) -> Step:
        """Draw the parameters for one image.

        Args:
            generator: the image's own, on the CPU.
            size: the image's height and width when it comes to this operation, pixels.
            target: the height and width at the end of the whole degradation, pixels.
        """
        raise NotImplementedError

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        """Apply step i to image i: (B, 3, H, W) in [0, 1] -> (B, 3, h, w), the same h and w for all."""
        raise NotImplementedError

    def program(self, generator: Generator, size: Size, target: Size) -> list[Step]:
        """Draw the list of steps that this operation is: one, except for operations made of others."""
        return [{"operation": type(self).__name__, **self.draw(generator, size, target)}]

    def leaves(self) -> list["Operation"]:
        """The operations that do the work: itself, except for operations made of others."""
        return [self]

    def follow(self, degraded: bool) -> bool:
        """Whether the truth may be degraded after this operation, given whether it may be before.

        Raises:
            UserError: where it changes the truth and comes too late for that.
        """
        return True


class Composite(Operation):
    """An operation made of others: it draws which of them happen, and in which order.

    Raises:
        UserError: one of them is no operation.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = list(operations)
        for each in self.operations:
            if not isinstance(each, Operation):
                raise UserError(f"{type(each).__name__} is no operation; derive it from sspir.degradation.Operation.")

    def leaves(self) -> list[Operation]:
        """The operations at the ends of the tree."""
        return [leaf for operation in self.operations for leaf in operation.leaves()]

    def follow(self, degraded: bool) -> bool:
        """Follow the operations in turn."""
        for operation in self.operations:
            degraded = operation.follow(degraded)
        return degraded


class Chain(Composite):
    """Operations one after the other."""

    def program(self, generator: Generator, size: Size, target: Size) -> list[Step]:
        """Draw each operation in turn, for the size that the ones before it leave."""
        return _draw_in_turn(self.operations, generator, size, target)


class Truth(Chain):
    """Operations that make the truth what it is, such as as soft as a camera's; the low-quality image is made of that.

    It comes before every other operation.
    """

    def program(self, generator: Generator, size: Size, target: Size) -> list[Step]:
        """Draw each operation in turn, and mark its steps."""
        steps = super().program(generator, size, target)
        return [{**step, "operation": TRUTH + step["operation"].removeprefix(TRUTH)} for step in steps]

    def follow(self, degraded: bool) -> bool:
        """Refuse to follow what degrades the truth."""
        if degraded:
            raise UserError("A Truth may follow another operation of the degradation; put it first.")
        return False


class Sometimes(Composite):
    """Operations one after the other, with a probability; otherwise nothing."""

    def __init__(self, operations: Sequence[Operation], probability: float) -> None:
        super().__init__(operations)
        self.probability = checked_probability("Sometimes.probability", probability)

    def program(self, generator: Generator, size: Size, target: Size) -> list[Step]:
        """Toss the coin, then draw the operations."""
        if not chance(generator, self.probability):
            return []
        return _draw_in_turn(self.operations, generator, size, target)


class OneOf(Composite):
    """One operation out of several, by weights (equal where none are given)."""

    def __init__(self, operations: Sequence[Operation], weights: Sequence[float] | None = None) -> None:
        super().__init__(operations)
        self.weights = checked_weights("OneOf.weights", weights or [1.0] * len(operations))
        if len(self.weights) != len(operations):
            raise UserError(f"OneOf has {len(operations)} operations and {len(self.weights)} weights: give one each.")

    def program(self, generator: Generator, size: Size, target: Size) -> list[Step]:
        """Choose, then draw the chosen one."""
        return _draw_in_turn([self.operations[choice(generator, self.weights)]], generator, size, target)

    def follow(self, degraded: bool) -> bool:
        """Follow each operation as if it were the chosen one."""
        return max(operation.follow(degraded) for operation in self.operations)


class Shuffled(Composite):
    """All operations in a random order, as in BSRGAN (arXiv 2103.14006, section 3.5).

    Args:
        operations: what is shuffled.
        in_order: positions (from 0) of operations that keep their order among themselves.
        probability: of shuffling; otherwise the order as written.
    """

    def __init__(self, operations: Sequence[Operation], in_order: Sequence[int] = (), probability: float = 1.0) -> None:
        super().__init__(operations)
        places = Numbers(int, 0, len(self.operations) - 1)
        self.in_order = sorted(places.require("Shuffled.in_order", each) for each in in_order)
        self.probability = checked_probability("Shuffled.probability", probability)

    def program(self, generator: Generator, size: Size, target: Size) -> list[Step]:
        """Draw the order, then the operations in that order."""
        order = list(range(len(self.operations)))
        if chance(generator, self.probability):
            order = torch.randperm(len(order), generator=generator).tolist()
            for place, index in zip(sorted(order.index(i) for i in self.in_order), self.in_order, strict=True):
                order[place] = index
        return _draw_in_turn([self.operations[i] for i in order], generator, size, target)

    def follow(self, degraded: bool) -> bool:
        """Follow the operations twice: each may come after all others."""
        return super().follow(super().follow(degraded))


def _draw_in_turn(operations: Sequence[Operation], generator: Generator, size: Size, target: Size) -> list[Step]:
    steps: list[Step] = []
    for operation in operations:
        steps += operation.program(generator, size, target)
        size = next(((step["size"][0], step["size"][1]) for step in reversed(steps) if "size" in step), size)
    return steps


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw a number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: Generator, low: int, high: int) -> int:
    """Draw a whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def chance(generator: Generator, probability: float) -> bool:
    """Toss a coin that shows True with this probability."""
    return uniform(generator, 0.0, 1.0) < probability


def choice(generator: Generator, weights: Sequence[float]) -> int:
    """Draw a position with these weights, which need not sum to 1."""
    mark = uniform(generator, 0.0, sum(weights))
    for index, weight in enumerate(weights):
        mark -= weight
        if mark < 0:
            return index
    return max(index for index, weight in enumerate(weights) if weight > 0)


def checked_range(name: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Return the two ends of a range, or raise a UserError that names it."""
    ends = tuple(float(value) for value in values)
    if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
        raise UserError(f"{name} is {list(ends)}: give two numbers, the smaller first, from {low:g} to {high:g}.")
    return ends[0], ends[1]


def checked_probability(name: str, value: float) -> float:
    """Return a probability, or raise a UserError that names it."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}: give a probability from 0 to 1.")
    return float(value)


def checked_weights(name: str, values: Sequence[float]) -> list[float]:
    """Return weights, or raise a UserError that names them."""
    weights = [float(value) for value in values]
    if not weights or min(weights) < 0 or sum(weights) <= 0:
        raise UserError(f"{name} is {weights}: give numbers of 0 or more, at least one of them above 0.")
    return weights

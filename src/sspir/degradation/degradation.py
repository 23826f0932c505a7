"""A degradation: operations in order, drawn and applied image by image."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sspir.degradation.operation import TRUTH, Chain, OneOf, Operation, Size, Step
from sspir.errors import UserError
from sspir.numbers import COUNT

Applier = Callable[[Tensor, Sequence[Step]], Tensor]


class Degradation(nn.Module):
    """Makes low-quality images out of high-quality ones, each with parameters of its own.

    What an image becomes is a function of its pixels and its seed alone: not of the batch it stands in, the
    worker, the rank or (to rounding) the device. On another device Poisson noise of dark pixels may be another draw.

    Args:
        operations: what happens, in this order.
        scale: by how much the result is smaller than the original.

    Raises:
        UserError: a scale that is no whole number from 1, two operations of one name, as steps tell operations by
            their names, or a `Truth` that may follow another operation.
    """

    def __init__(self, operations: Sequence[Operation], scale: int) -> None:
        super().__init__()
        self.scale = COUNT.require("The degradation's scale", scale)
        self.chain = Chain(operations)
        self.chain.follow(degraded=False)
        self.appliers: dict[str, Applier] = {}
        for leaf in self.chain.leaves():
            name = type(leaf).__name__
            if self.appliers.setdefault(name, leaf.apply) != leaf.apply:
                raise UserError(f"Several operations are called {name}: rename yours, and make its apply static.")

    @classmethod
    def mixture(cls, parts: Mapping[str, "Degradation"], weights: Mapping[str, float]) -> Self:
        """One of several degradations per image.

        Args:
            parts: the degradations, all of one scale, by name.
            weights: how often each is taken, by the same names.
        """
        scales = {part.scale for part in parts.values()}
        if weights.keys() != parts.keys() or len(scales) != 1:
            raise UserError(
                f"The mixture has weights for {', '.join(weights)} and the parts {', '.join(parts)} of scales "
                f"{sorted(scales)}: give each part a weight, and all the same scale."
            )
        return cls([OneOf([part.chain for part in parts.values()], [weights[name] for name in parts])], *scales)

    def cut(self, hq: Tensor) -> Tensor:
        """Cut images (..., H, W) at the right and below to a multiple of the scale; a side shorter than it stays."""
        height, width = (length // self.scale * self.scale or length for length in hq.shape[-2:])
        return hq[..., :height, :width]

    def draw(self, seed: int, size: Size) -> list[Step]:
        """Draw what happens to one image of this height and width (pixels): JSON-able steps, in order."""
        target = (max(1, size[0] // self.scale), max(1, size[1] // self.scale))
        return self.chain.program(torch.Generator().manual_seed(seed), size, target)

    def apply(self, hq: Tensor, params: Sequence[list[Step]]) -> Tensor:  # type: ignore[override]  # not nn.Module's: there are no parts to visit
        """Apply to each image the steps that were drawn for it: the low-quality half of `make`."""
        return self.make(hq, params)[1]

    def make(self, hq: Tensor, params: Sequence[list[Step]]) -> tuple[Tensor, Tensor]:
        """Apply to each image the steps that were drawn for it.

        Args:
            hq: (B, 3, H, W) in [0, 1], RGB.
            params: B lists of steps, as `draw` returns them.

        Returns:
            hq as the steps of `Truth` leave it, without any the same, and lq (B, 3, H // scale, W // scale) in [0, 1].

        Raises:
            UserError: where the operations leave images of another size.
        """
        ours = [[step for step in steps if step["operation"].startswith(TRUTH)] for steps in params]
        rest = [[step for step in steps if not step["operation"].startswith(TRUTH)] for steps in params]
        truth = self._applied(hq, ours, hq.shape[-2:]) if any(ours) else hq
        lq = self._applied(truth, rest, [max(1, length // self.scale) for length in hq.shape[-2:]])
        return truth, lq.clamp(0, 1)  # some kernels and bicubic weights overshoot

    def pair(self, hq: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw and make: (B, 3, H, W) in [0, 1] and B seeds -> hq and lq, see `make`."""
        size = (hq.shape[-2], hq.shape[-1])
        return self.make(hq, [self.draw(seed, size) for seed in seeds])

    def forward(self, hq: Tensor, seeds: Sequence[int]) -> Tensor:
        """The low-quality half of `pair`: (B, 3, H, W) in [0, 1] and B seeds -> (B, 3, H // scale, W // scale)."""
        return self.pair(hq, seeds)[1]

    def _applied(self, hq: Tensor, params: Sequence[list[Step]], target: Sequence[int]) -> Tensor:
        if hq.device.type == "cpu":  # one after the other: an image stays in the CPU's cache
            images = [self._apply_in_step(image[None], [steps])[0] for image, steps in zip(hq, params, strict=True)]
        else:
            images = self._apply_in_step(hq, params)
        for image in images:
            if list(image.shape[-2:]) != list(target):
                raise UserError(
                    f"The degradation leaves {list(image.shape[-2:])} pixels of {list(hq.shape[-2:])} where its "
                    f"scale {self.scale} asks for {list(target)}: end it with a Resize, or set its scale."
                )
        return torch.cat(images).contiguous()

    def _apply_in_step(self, hq: Tensor, params: Sequence[list[Step]]) -> list[Tensor]:
        """All first steps, then all second ones and so on; equal operations of equal sizes go as one batch."""
        images = [image[None] for image in hq]
        for number in range(max(map(len, params), default=0)):
            groups = defaultdict(list)
            for i, steps in enumerate(params):
                if number < len(steps):
                    step = steps[number]
                    groups[step["operation"], images[i].shape, tuple(step.get("size", ()))].append(i)
            for (operation, *_), members in groups.items():
                batch = torch.cat([images[i] for i in members]) if len(members) > 1 else images[members[0]]
                results = self.appliers[operation.removeprefix(TRUTH)](batch, [params[i][number] for i in members])
                for i, result in zip(members, results, strict=True):
                    images[i] = result[None]
        return images

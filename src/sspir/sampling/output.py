"""What restoring returns, and how photos are batched for it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.images.panel import to_pil

REPAIRED = "the result in half precision was NaN or black; restored in float32"


@dataclass
class RestorationOutput:
    """What restoring returns.

    Attributes:
        images: (B, 3, H, W) in [0, 1]; from a call of the pipeline a list of pictures.
        structure: the Processor's images (B, 3, ., .) in [0, 1], largest first; from a call of the pipeline the largest
            one of each photo. Empty where it predicts none.
        captions: the texts that steered.
        warnings: sentences about what went differently than asked.
        repaired: places of the images that `REPAIRED` is about.
    """

    images: Any
    structure: list[Tensor]
    captions: list[str]
    warnings: list[str] = field(default_factory=list)
    repaired: list[int] = field(default_factory=list)

    def warnings_of(self, index: int) -> list[str]:
        """The sentences that are about one image of a batch."""
        return [warning for warning in self.warnings if warning != REPAIRED or index in self.repaired]

    def __getitem__(self, index: int) -> "RestorationOutput":
        """One image of a batch, as a batch of one."""
        image, structure = self.images[index : index + 1], [images[index : index + 1] for images in self.structure]
        repaired = [0] if index in self.repaired else []
        return RestorationOutput(image, structure, self.captions[index : index + 1], self.warnings_of(index), repaired)

    @classmethod
    def joined(cls, parts: Sequence["RestorationOutput"], order: Sequence[int]) -> "RestorationOutput":
        """Several batches as one; `order` holds the place of each of their images in it."""
        places = [order.index(place) for place in range(len(order))]
        captions = [caption for part in parts for caption in part.captions]
        starts = accumulate((len(part.images) for part in parts[:-1]), initial=0)
        return cls(
            torch.cat([part.images for part in parts])[places],
            [torch.cat(images)[places] for images in zip(*(part.structure for part in parts), strict=True)],
            [captions[place] for place in places],
            [warning for part in parts for warning in part.warnings],
            sorted(order[start + place] for start, part in zip(starts, parts, strict=True) for place in part.repaired),
        )

    @classmethod
    def listed(cls, parts: Sequence["RestorationOutput"], output_type: str) -> "RestorationOutput":
        """Batches of one, whose sizes may differ, as lists of what the caller asked for."""
        return cls(
            [as_type(part.images[0], output_type) for part in parts],
            [part.structure[0][0] for part in parts if part.structure],
            [part.captions[0] for part in parts],
            list(dict.fromkeys(warning for part in parts for warning in part.warnings)),
            [place for place, part in enumerate(parts) if part.repaired],
        )


class BrokenError(UserError):
    """A result that holds NaN or infinity, or is black all over, in full precision too.

    Attributes:
        restored: the result.
    """

    def __init__(self, restored: RestorationOutput) -> None:
        super().__init__(
            "The network's result holds NaN or is black all over; check the weights, or take another sampler or start."
        )
        self.restored = restored


def grouped(keys: Sequence[Hashable], most: int) -> list[list[int]]:
    """Places of equal keys together, at most so many in a group, in the order in which they come."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]


def as_type(image: Tensor, output_type: str) -> Any:
    """(3, H, W) in [0, 1] as what the caller asked for."""
    if output_type == "pil":
        return to_pil(image)
    return image.permute(1, 2, 0).cpu().numpy() if output_type == "np" else image

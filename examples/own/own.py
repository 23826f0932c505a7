"""One of each kind, as small as it can be. Delete what you do not need, and the YAML that names it."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Generator, Tensor
from torch.utils.data import Dataset
from torchmetrics import Metric

from sspir.data import Crop
from sspir.data.cropped import chw_tensor
from sspir.degradation import Operation
from sspir.images.io import list_images, read_image


class Vignette(Operation):
    """A degradation's operation: `draw` decides, per image and from its own generator, and `apply` does it."""

    def __init__(self, darkness: Sequence[float]) -> None:
        self.low, self.high = darkness

    def draw(self, generator: Generator, size: tuple[int, int], target: tuple[int, int]) -> dict[str, Any]:
        """What `apply` needs, as JSON holds it."""
        return {"darkness": self.low + (self.high - self.low) * float(torch.rand((), generator=generator))}

    @staticmethod
    def apply(images: Tensor, steps: Sequence[dict[str, Any]]) -> Tensor:
        """Step i to image i: (B, 3, H, W) in [0, 1] -> the same."""
        y, x = (torch.linspace(-1, 1, side, device=images.device) for side in images.shape[-2:])
        distance = (y[:, None] ** 2 + x[None] ** 2) / 2
        darkness = torch.tensor([step["darkness"] for step in steps], device=images.device)
        return images * (1 - darkness[:, None, None, None] * distance)


class Brightness:
    """A captioner: B images (3, H, W) in [0, 1] and the texts that came with them -> B captions."""

    def __init__(self, bright: float = 0.5) -> None:
        self.bright = bright

    def __call__(self, images: Sequence[Tensor], known: Sequence[str]) -> list[str]:
        """What came with an image, or what it looks like."""
        seen = ["a bright photo" if image.mean() > self.bright else "a dark photo" for image in images]
        return [text or own for text, own in zip(known, seen, strict=True)]


class Patches(ModelMixin, ConfigMixin):
    """An image encoder: (B, 3, H, W) in [0, 1] -> tokens (B, L, D). `dim` is D, and stands in its YAML.

    A plain `nn.Module` does, too; with diffusers' bases and `register_to_config` its runs can be exported.
    """

    @register_to_config
    def __init__(self, dim: int = 32, grid: int = 4) -> None:
        super().__init__()
        self.dim, self.grid = dim, grid
        self.embed = torch.nn.Linear(3, dim)

    def forward(self, images: Tensor) -> Tensor:
        """The mean colour of each patch, embedded."""
        patches = torch.nn.functional.adaptive_avg_pool2d(images, self.grid)
        return self.embed(patches.flatten(2).transpose(1, 2))


class Stochastic(DDIMScheduler):
    """A solver: a scheduler of diffusers, here with fresh noise in every step. A sampler's YAML names it."""

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, generator: Any = None, **options: Any) -> Any:
        """One step down; who takes `generator` is handed one for each image."""
        return super().step(model_output, timestep, sample, eta=1.0, generator=generator, **options)


class WorstPixel(Metric):
    """A metric of torchmetrics: `update(preds, target)`, or `update(preds)` for one that needs no truth."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("worst", torch.zeros(()), dist_reduce_fx="max")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Images (B, 3, H, W) in [0, 1]; sspir hands over one at a time, and averages what `compute` says of each."""
        self.worst = torch.maximum(self.worst, (preds - target).abs().max())

    def compute(self) -> Tensor:
        """One number."""
        return self.worst


class Middles(Dataset[dict[str, Any]]):
    """A data set that can be counted and indexed: id, hq (3, H, W) in [0, 1], caption, and lq where it has pairs.

    It is trained on as it is indexed. For patches that are drawn anew in each epoch derive `sspir.data.CroppedPhotos`.
    """

    def __init__(self, folder: str, crop: Crop) -> None:
        self.files = list_images(folder)
        self.crop = crop

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The middle of a photo."""
        pixels, _ = self.crop.centre(read_image(self.files[index]).pixels)
        return {"id": self.files[index].name, "hq": chw_tensor(pixels), "caption": ""}

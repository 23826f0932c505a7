"""A whole pipeline with small random weights, and photos to restore."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from sspir.captioners.measured import MeasuredCaptioner
from sspir.config.compose import compose_config
from sspir.images.io import write_image
from sspir.images.picture import Picture
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.run import build_module
from tests.networks import wake


@cache
def tiny_pipeline(*overrides: str) -> RestorationPipeline:
    """The tiny experiment's, untrained, with every zeroed layer awake so that nothing is hidden."""
    config = compose_config("train", ["experiments=tiny", *overrides])
    module = build_module(config).eval()
    wake(module.backbone)
    module.backbone.processor.front.conv_last.weight.data.mul_(0.1)
    pipeline = module.pipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def photo(height: int = 24, width: int = 20, seed: int = 0) -> torch.Tensor:
    """A smooth picture (3, height, width) in [0, 1]."""
    noise = torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]


def describe(image: torch.Tensor) -> str:
    """The measured caption of an image (3, H, W) in [0, 1]."""
    return MeasuredCaptioner()([image], [""])[0]


def write_photo(path: Path, height: int = 24, width: int = 20, seed: int = 0) -> Path:
    pixels = (photo(height, width, seed) * 255).byte().permute(1, 2, 0).numpy()
    write_image(path, Picture(np.ascontiguousarray(pixels)))
    return path

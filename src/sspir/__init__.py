"""Experiment framework for diffusion-based realistic image restoration."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sspir.moved import keep_old_modules

if TYPE_CHECKING:
    from sspir.config.compose import compose_config as compose_config
    from sspir.evaluation.evaluate import evaluate as evaluate
    from sspir.sampling.pipeline import RestorationPipeline as RestorationPipeline
    from sspir.sampling.sampler import Sampler as Sampler
    from sspir.training.fit import train as train
    from sspir.training.module import RestorationModule as RestorationModule
    from sspir.weights.load import load_pipeline as load_pipeline

__version__ = "0.1.0"
_PLACES = {
    "RestorationModule": "training.module",
    "RestorationPipeline": "sampling.pipeline",
    "Sampler": "sampling.sampler",
    "compose_config": "config.compose",
    "evaluate": "evaluation.evaluate",
    "load_pipeline": "weights.load",
    "train": "training.fit",
}
__all__ = list(_PLACES)

keep_old_modules()


def __getattr__(name: str) -> Any:
    """Import the module of a name, and with it torch, only when the name is used."""
    if name not in _PLACES:
        if old := sys.modules.get(f"{__name__}.{name}"):
            return old
        raise AttributeError(f"module 'sspir' has no attribute {name!r}")
    return getattr(import_module(f"sspir.{_PLACES[name]}"), name)

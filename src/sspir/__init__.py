"""Experiment framework for diffusion-based realistic image restoration."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sspir.moved import keep_old_modules

if TYPE_CHECKING:
    from sspir.config.compose import compose_config
    from sspir.evaluation.evaluate import evaluate
    from sspir.sampling.pipeline import RestorationPipeline
    from sspir.sampling.sampler import Sampler
    from sspir.training.fit import train
    from sspir.training.module import RestorationModule
    from sspir.weights.load import load_pipeline

__version__ = "0.1.0"
__all__ = [
    "RestorationModule",
    "RestorationPipeline",
    "Sampler",
    "__version__",
    "compose_config",
    "evaluate",
    "load_pipeline",
    "train",
]
_PLACES = {
    "RestorationModule": "training.module",
    "RestorationPipeline": "sampling.pipeline",
    "Sampler": "sampling.sampler",
    "compose_config": "config.compose",
    "evaluate": "evaluation.evaluate",
    "load_pipeline": "weights.load",
    "train": "training.fit",
}

keep_old_modules()


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'sspir' has no attribute {name!r}")
    return getattr(import_module(f"sspir.{_PLACES[name]}"), name)

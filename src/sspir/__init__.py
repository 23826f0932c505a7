"""Experiment framework for diffusion-based realistic image restoration."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["RestorationPipeline", "__version__", "load_pipeline"]

if TYPE_CHECKING:
    from sspir.sampling.pipeline import RestorationPipeline
    from sspir.weights.load import load_pipeline


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name == "RestorationPipeline":
        from sspir.sampling.pipeline import RestorationPipeline

        return RestorationPipeline
    if name == "load_pipeline":
        from sspir.weights.load import load_pipeline

        return load_pipeline
    raise AttributeError(f"module 'sspir' has no attribute {name!r}")

"""From a low-quality image to a restored one."""

from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler

__all__ = ["RestorationPipeline", "Sampler"]

"""Degradations: they turn a good photo into a training pair.

An operation draws its parameters first and applies them later; a `Degradation` is a list of operations, seeded per
sample. `conf/degradation/` holds the field's pipelines.
"""

from sspir.degradation.blur import Blur, Sinc
from sspir.degradation.bsrgan import AnisotropicBlur, CorrelatedNoise, NearestDownsample
from sspir.degradation.degradation import Degradation
from sspir.degradation.jpeg import JPEG
from sspir.degradation.noise import GaussianNoise, PoissonNoise
from sspir.degradation.operation import Chain, OneOf, Operation, Shuffled, Sometimes, Truth
from sspir.degradation.resize import Downsample, RandomResize, Resize
from sspir.degradation.sharpen import Quantize, Sharpen
from sspir.moved import old_names_of

__all__ = [
    "JPEG", "AnisotropicBlur", "Blur", "Chain", "CorrelatedNoise", "Degradation", "Downsample", "GaussianNoise",
    "NearestDownsample", "OneOf", "Operation", "PoissonNoise", "Quantize", "RandomResize", "Resize", "Sharpen",
    "Shuffled", "Sinc", "Sometimes", "Truth",
]  # fmt: skip

__getattr__ = old_names_of(__name__)

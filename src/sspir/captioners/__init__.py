"""Captioners: photos to the texts that steer their restoration."""

from sspir.captioners.base import Captioner, CaptionError, NoCaption, Precomputed
from sspir.captioners.endpoint import EndpointCaptioner
from sspir.captioners.measured import MeasuredCaptioner
from sspir.captioners.vision_language import VisionLanguageCaptioner

__all__ = [
    "CaptionError", "Captioner", "EndpointCaptioner", "MeasuredCaptioner", "NoCaption", "Precomputed",
    "VisionLanguageCaptioner",
]  # fmt: skip

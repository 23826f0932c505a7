"""Text and image encoders: the explicit and the implicit semantic prior."""

from sspir.encoders.base import NoImageEncoder
from sspir.encoders.clip import CLIPImageEncoder
from sspir.encoders.dinov2 import DINOv2ImageEncoder
from sspir.encoders.efficientnet import EfficientNetLite0
from sspir.encoders.open_clip import OpenCLIPImageEncoder
from sspir.encoders.open_clip_conv import OpenCLIPConvEncoder
from sspir.encoders.patch import PatchEncoder
from sspir.encoders.text import TextEncoder

__all__ = [
    "CLIPImageEncoder", "DINOv2ImageEncoder", "EfficientNetLite0", "NoImageEncoder", "OpenCLIPConvEncoder",
    "OpenCLIPImageEncoder", "PatchEncoder", "TextEncoder",
]  # fmt: skip

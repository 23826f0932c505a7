"""Text and image encoders: the explicit and the implicit semantic prior."""

from sspir.encoders.base import NoImageEncoder
from sspir.encoders.clip import CLIPImageEncoder
from sspir.encoders.dinov2 import DINOv2ImageEncoder
from sspir.encoders.open_clip import OpenCLIPImageEncoder
from sspir.encoders.patch import PatchEncoder
from sspir.encoders.text import TextEncoder

__all__ = [
    "CLIPImageEncoder", "DINOv2ImageEncoder", "NoImageEncoder", "OpenCLIPImageEncoder", "PatchEncoder", "TextEncoder",
]  # fmt: skip

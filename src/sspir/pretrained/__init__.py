"""Somebody else's networks: from a folder, a single file or the hub."""

from typing import Any

from sspir.moved import old_name
from sspir.pretrained.load import load_autoencoder, load_noise_schedule

__all__ = ["load_autoencoder", "load_noise_schedule"]


def __getattr__(name: str) -> Any:
    """Names that have moved."""
    return old_name(__name__, name)

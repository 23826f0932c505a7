"""Somebody else's networks: from a folder, a single file or the hub."""

from sspir.moved import old_names_of
from sspir.pretrained.load import load_autoencoder, load_noise_schedule, load_unet

__all__ = ["load_autoencoder", "load_noise_schedule", "load_unet"]

__getattr__ = old_names_of(__name__)

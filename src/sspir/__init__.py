"""Experiment framework for diffusion-based realistic image restoration."""

__version__ = "0.1.0"

"""Distances that see as people do, as losses and for metrics: LPIPS and DISTS."""

from sspir.perceptual.networks import DISTS, LPIPS
from sspir.perceptual.weights import load_distance

__all__ = ["DISTS", "LPIPS", "load_distance"]

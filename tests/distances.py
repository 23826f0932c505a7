"""LPIPS and DISTS with random weights: what does not depend on the published ones needs no download."""

import torch
from torch import Tensor

from sspir.perceptual import DISTS, LPIPS
from sspir.perceptual.networks import Features, PerceptualDistance
from sspir.perceptual.weights import DISTANCES


def random_network(name: str, seed: int = 0) -> PerceptualDistance:
    """A distance whose every weight is random, and whose heads weigh with positive numbers."""
    generator = torch.Generator().manual_seed(seed)
    trunk = DISTANCES[name]
    features = Features(trunk)
    weights = {f"features.{key}": _random(value, generator) for key, value in features.state_dict().items()}
    channels = Features.channels[trunk]
    if name == "dists":
        count = 3 + sum(channels)
        return DISTS(weights | {key: torch.rand(count, generator=generator) for key in ("alpha", "beta")})
    heads = {f"heads.{place}": torch.rand(count, generator=generator) for place, count in enumerate(channels)}
    return LPIPS(weights | heads, trunk)


def _random(value: Tensor, generator: torch.Generator) -> Tensor:
    fan_in = value[0].numel() if value.ndim == 4 else 100
    return torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5

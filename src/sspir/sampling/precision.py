"""The precision of restoring: the denoiser runs in its weights' type or the caller's autocast, all else in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from sspir.errors import UserError


def floating(dtype: str | torch.dtype) -> torch.dtype:
    """The type of real numbers that a name of torch's, or itself, stands for.

    Raises:
        UserError: there is no such type.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UserError(f"dtype={dtype!r} is no type of real numbers in torch; give bfloat16, float16 or float32.")
    return kind


def plain(device: torch.device) -> torch.autocast:
    """A context without autocast: what is computed within has the precision that users get."""
    return torch.autocast(device.type, enabled=False)


def autocast_of(device: torch.device) -> torch.autocast:
    """The autocast that is on now, to come back to from within `plain`."""
    kind = device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False)


def networks_of(pipeline: Any) -> list[torch.nn.Module]:
    """The parts of a pipeline that hold weights."""
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def halves_of(pipeline: Any) -> list[Tensor]:
    """The weights of a pipeline that are held in less than float32."""
    weights = [weight for part in networks_of(pipeline) for weight in chain(part.parameters(), part.buffers())]
    return [weight for weight in weights if weight.is_floating_point() and weight.itemsize < 4]


@contextmanager
def in_full(weights: list[Tensor]) -> Iterator[None]:
    """Within, weights are float32; afterwards they are as they were, bit for bit: a training may go on with them."""
    held = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.float()
        yield
    finally:
        for weight, data in zip(weights, held, strict=True):
            weight.data = data.to(weight.device)  # offloading may have moved it

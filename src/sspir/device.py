"""What goes from the CPU to the device of a computation, without the one waiting for the other."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device: a GPU fetches it from pinned memory while the CPU goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def kept_on_device(make: Callable[P, Tensor]) -> Callable[Concatenate[torch.device, P], Tensor]:
    """Let a function that makes a constant from hashable arguments take a device first, which keeps the constant.

    On a CPU the function is called anew.
    """

    @lru_cache(maxsize=256)
    def kept(device: torch.device, *arguments: P.args, **settings: P.kwargs) -> Tensor:
        with torch.inference_mode(False):  # or no gradient could pass by what a validation made
            return sent(make(*arguments, **settings), device)

    @wraps(make)
    def made(device: torch.device, /, *arguments: P.args, **settings: P.kwargs) -> Tensor:
        of_cpu = device.type == "cpu"
        return make(*arguments, **settings) if of_cpu else kept(device, *arguments, **settings)

    return made

"""What goes from the CPU to the device of a computation, without the one waiting for the other."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device: a GPU fetches it from pinned memory while the CPU goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Coming:
    """A scalar of a device on its way to the CPU: the way begins at once, and a call waits for its end.

    Args:
        scalar: of any device.
    """

    def __init__(self, scalar: Tensor) -> None:
        self._copy = scalar.to("cpu", non_blocking=scalar.device.type == "cuda")
        self._arrived = None
        if scalar.device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            self._arrived.record()

    def __call__(self) -> float:
        """The number."""
        if self._arrived is not None:
            self._arrived.synchronize()  # what came after it goes on
        return self._copy.item()


def constant(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """A tensor of numbers, or of nested tuples of them, on the device and of the type of another tensor."""
    return _constant(like.device, values, like.dtype)


def kept_on_device(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function that makes a constant from hashable arguments take a device first, which keeps the constant.

    On a CPU, and within a compiled function, it is called anew.
    """

    @cache  # what is replayed reads them where they are
    def kept(device: torch.device, *arguments: Any) -> Tensor:
        with torch.inference_mode(False):  # or no gradient could pass by what a validation made
            return sent(make(*arguments), device)

    @wraps(make)
    def made(device: torch.device, /, *arguments: Any) -> Tensor:
        if device.type == "cpu" or torch.compiler.is_compiling():
            return make(*arguments).to(device)
        return kept(device, *arguments)

    return made


@kept_on_device
def _constant(values: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype)

"""Offloading: parts that wait in the CPU's memory until accelerate's hooks bring them to the device."""

from typing import Any

import torch
from torch import nn


def fetch(part: nn.Module) -> None:
    """Move a part to the device that it runs on, as a call of its `forward` would; does nothing without a hook.

    Hooks of accelerate, which diffusers' `enable_model_cpu_offload` attaches, act when a module's own `forward` is
    called. Code that calls the layers inside a part one by one calls this function first.
    """
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(part)


def execution_device(part: nn.Module) -> torch.device:
    """The device that a part runs on; its weights may wait on another one."""
    for module in part.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(part.parameters()).device


def dtype_of(part: Any) -> torch.dtype:
    """The type that a part of a pipeline computes in.

    diffusers looks through all of it for hooks, which only weights that are kept in eight bits have.
    """
    weights = part.parameters() if isinstance(part, nn.Module) else ()
    first = next((weight for weight in weights if weight.is_floating_point()), None)
    kind: torch.dtype = part.dtype if first is None or first.itemsize < 2 else first.dtype
    return kind

"""Parts that wait in the processor's memory until they are used: accelerate's hooks, and what runs a part in pieces."""

import torch
from torch import nn


def fetch(part: nn.Module) -> None:
    """Have a part brought to where it runs, as a call of the part itself would; nothing happens without a hook.

    Hooks of accelerate, which diffusers' `enable_model_cpu_offload` attaches, act when a module's own `forward` is
    called. Whoever calls the layers inside a part one by one says so here first.
    """
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(part)


def execution_device(part: nn.Module) -> torch.device:
    """Where a part runs, which is not where its weights are while they wait."""
    for module in part.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(part.parameters()).device

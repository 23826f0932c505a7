"""Weights, gradients and optimizer states spread over processes (FSDP 2), for networks that one GPU cannot hold."""

from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

UNITS = (ResnetBlock2D, Transformer2DModel)
"""Gathered as a whole just before they run; our forward calls no larger part of a U-Net."""


def shard(network: nn.Module, mesh: Any) -> None:
    """Share the weights of a network over a mesh of processes, layer by layer. What is shared already stays so.

    Args:
        network: whose layers are called as modules, whatever calls them.
        mesh: a one-dimensional `DeviceMesh`.
    """
    for kinds in (UNITS, (nn.Module,)):  # what is outside units is shared on its own
        for module in network.modules():
            own = module.parameters(recurse=kinds is UNITS)
            if isinstance(module, kinds) and any(not isinstance(parameter, DTensor) for parameter in own):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shares; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of another one, and shared as that is."""
    if isinstance(other, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor.to(other.device)

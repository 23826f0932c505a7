"""Spread one network over many processes (FSDP 2), if one GPU cannot hold it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pkgutil import resolve_name
from typing import Any

import pytorch_lightning as pl
import torch.distributed
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from omegaconf import DictConfig
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sspir.errors import UserError
from sspir.objectives.frozen import WHOLE

UNITS = (ResnetBlock2D, Transformer2DModel)
"""Gathered as a whole just before they run; our forward calls no larger part of a U-Net."""


def require_accelerator(trainer: DictConfig) -> None:
    """Refuse a GPU that is not there, and what takes one, before photos are read and a folder is made.

    Args:
        trainer: with Lightning's `accelerator`, such as "gpu" ("auto" takes what there is), and `precision`.

    Raises:
        UserError: PyTorch sees none.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name, precision = trainer.get("accelerator"), str(trainer.get("precision"))
    if precision in ("bf16-true", "16-true", "16-mixed", "16") and (name == "cpu" or not any(there.values())):
        raise UserError(f"trainer.precision={precision} takes a GPU; on a CPU train in bf16-mixed or 32-true.")
    if name in ("gpu", *there) and not there.get(name, any(there.values())):
        raise UserError(
            f"trainer.accelerator={name}, but PyTorch sees no such GPU on this machine; train where there is one, or "
            f"set trainer=cpu."
        )


def require_processes(trainer: pl.Trainer) -> None:
    """Refuse several devices without a process for each: Lightning would start them by a command that is not ours.

    Raises:
        UserError: to be raised before a training.
    """
    strategy, launcher = trainer.strategy, trainer.strategy.launcher
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    started = environment is None or environment.creates_processes_externally
    if trainer.num_devices > 1 and not started and launcher and not launcher.is_interactive_compatible:
        raise UserError(
            f"{trainer.num_devices} devices take a process each, which torchrun starts: torchrun --standalone "
            f"--nproc-per-node {trainer.num_devices} -m sspir train ...; one device: trainer.devices=1."
        )


@contextmanager
def launch_forgotten() -> Iterator[None]:
    """Take back what Lightning's launcher leaves in the environment, after a training.

    The next one in this process would pass for one that torchrun started, and wait for others for ever.
    """
    names = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def shares(trainer: DictConfig) -> bool:
    """Whether a trainer's configuration gives every process a share of the weights."""
    kind = _made_by(trainer.get("strategy"))
    return isinstance(kind, type) and issubclass(kind, ShardedStrategy)


def require_whole(config: DictConfig) -> None:
    """Refuse to share weights of which the objective keeps a copy, before a folder is made.

    Raises:
        UserError: the configuration asks for it.
    """
    if shares(config.trainer) and getattr(_made_by(config.objective), "copies", False):
        raise UserError(WHOLE)


def _made_by(node: Any) -> Any:
    """The class that a node of a configuration names; None where there is none: who builds it says why."""
    with suppress(Exception):
        return resolve_name(node["_target_"])


def gathered(item: Any) -> list[Any]:
    """The items of all processes in the order of ranks; every process must call this with its own item."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [item]
    items = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(items, item)
    return items


def mean_of_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, each of which must call this; a GPU is not waited for."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    values = values / torch.distributed.get_world_size()
    torch.distributed.all_reduce(values)
    return values


class ShardedStrategy(ModelParallelStrategy):
    """Every process holds a share of each weight; checkpoints are the same single files as without.

    Lightning's own FSDP strategy wraps a network by its `forward`, which ours does not use.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Share over all processes of all nodes; Lightning's default is one share per node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(network: nn.Module, mesh: Any) -> None:
    """Share the weights of a network over a mesh of processes, layer by layer; shared weights stay as they are.

    Args:
        network: whose layers are called as modules, whatever calls them.
        mesh: a one-dimensional `DeviceMesh`.
    """
    for kinds in (UNITS, (nn.Module,)):  # what is outside units is shared on its own
        for module in network.modules():
            own = module.parameters(recurse=kinds is UNITS)
            if isinstance(module, kinds) and any(not isinstance(parameter, DTensor) for parameter in own):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)


def full_tensor(tensor: Tensor) -> Tensor:
    """A whole tensor, gathered from its shares; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_as(tensor: Tensor, other: Tensor) -> Tensor:
    """Move a whole tensor to the device of another one, and share it over the processes as the other is."""
    if isinstance(other, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor.to(other.device)


def alone(trainer: Any) -> bool:
    """Whether one GPU trains by gradients of one batch: a replayed step overwrites those of the last one."""
    single = trainer.world_size == 1 and not isinstance(trainer.strategy, ShardedStrategy)
    return single and trainer.accumulate_grad_batches == 1 and trainer.strategy.root_device.type == "cuda"

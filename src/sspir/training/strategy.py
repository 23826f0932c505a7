"""How Lightning spreads one network over many processes."""

from typing import Any

import torch.distributed
from pytorch_lightning.strategies import ModelParallelStrategy


def gathered(item: Any) -> list[Any]:
    """What every process hands in, in the order of ranks; each has to call this, and gets them all."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [item]
    items = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(items, item)
    return items


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

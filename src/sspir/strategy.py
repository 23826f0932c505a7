"""How Lightning spreads one network over many processes."""

from pytorch_lightning.strategies import ModelParallelStrategy


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

"""A network that is trained along with the one of the training, outside of Lightning's one optimizer."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed
from torch import Tensor, nn

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Companion:
    """The updates of a network beside the one that Lightning trains, in the same steps.

    A step stays one update of the main network, and no gradient of one network can reach the other's. Processes average
    its gradients here; every process holds all of it.

    Args:
        parameters: that learn.
        optimizer: makes their optimizer.
        clip: largest norm of their gradient.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: OptimizerFactory, clip: float) -> None:
        self.parameters = list(parameters)
        self.optimizer = optimizer(self.parameters)
        self.clip = clip

    def update(self, *told: Tensor) -> tuple[Tensor, list[float]]:
        """Update by the gradients that have come together; one that is not finite is left out.

        Args:
            told: scalars to be read along: a GPU is waited for once.

        Returns:
            The gradient's norm before it was clipped, and the values of the scalars.
        """
        _average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        length, *values = torch.stack([norm, *told]).tolist()
        if math.isfinite(length):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm, values

    def follow(self) -> None:
        """Move what the optimizer remembers to where the parameters are now."""
        self.optimizer.load_state_dict(self.optimizer.state_dict())


def _average(gradients: list[Tensor]) -> None:
    """Average gradients over the processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    means = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))

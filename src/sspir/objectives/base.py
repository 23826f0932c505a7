"""What a training step minimises: the choice that `objective=` makes."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sspir.batch import Batch
from sspir.device import sent


def normal(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise like a batch (B, ...), each image's drawn on the CPU from its own generator."""
    noise = torch.stack([torch.randn(like.shape[1:], generator=each) for each in generators])
    return sent(noise.to(like.dtype), like.device)


class Objective:
    """What a step minimises beside the losses of the Processor's images.

    It is no part of the network: whatever it holds (discriminators, distances, a teacher) is neither averaged nor
    shared over processes nor exported, and a network trained by one objective can go on with another.

    Attributes:
        one_step: whether the network becomes one that restores in a single step, at the start of its sampler.
        noised: whether that step begins with the noise of its timestep, as diffusion does, or with the latent as it is.
    """

    one_step = False
    noised = True

    def losses(
        self, module: Any, batch: Batch, lq: Tensor, features: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch by name, weighted: their sum is minimised.

        Args:
            module: the `RestorationModule` that is trained.
            batch: of the step.
            lq: (B, 3, H, W) in [0, 1], upscaled.
            features: of the structure prior.
            images: the Processor's, which a residual refers to.
        """
        raise NotImplementedError

    def networks(self) -> Iterator[nn.Module]:
        """Networks that the objective uses, to be moved to the device of the training."""
        return iter(())

    def judged(self, pictures: Tensor) -> list[Tensor]:
        """What networks that judge pictures (B, 3, H, W) make of them: for an estimate of memory, without any draw."""
        return []

    def to(self, device: torch.device) -> None:
        """Move everything to the device of the training."""
        for network in self.networks():
            network.to(device)

    def end_step(self) -> None:
        """Called after every update of the network, also of one that was left out."""

    def figures(self) -> dict[str, float | Tensor]:
        """Values of the last batch to be logged beside its losses."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What has to be kept to go on exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was kept."""

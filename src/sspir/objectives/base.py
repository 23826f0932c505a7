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


def drawn(first: int, end: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """A number (B,) of each generator, at least `first` and below `end`, on a device."""
    return sent(torch.cat([torch.randint(first, end, (1,), generator=each) for each in generators]), device)


class Objective:
    """What a step minimises beside the losses of the Processor's images.

    It is no part of the network: whatever it holds (discriminators, distances, a teacher) is neither averaged nor
    shared over processes nor exported, and a network trained by one objective can go on with another.

    Attributes:
        one_step: whether the network becomes one that restores in a single step, at the start of its sampler.
        noised: whether that step begins with the noise of its timestep, as diffusion does, or with the latent as it is.
        copies: whether it keeps a copy of the network, which every process must hold as a whole then.
    """

    one_step = False
    noised = True
    copies = False

    def check(self, sampler: Any) -> None:
        """Refuse settings of restoring that the objective does not train for.

        Args:
            sampler: the `Sampler` that validates, and that users get.

        Raises:
            UserError: it restores in another way.
        """

    def prepare(self, module: Any) -> None:
        """Make what is made of the network: before the first step of a training, when `load_state_dict` was called.

        Args:
            module: the `RestorationModule`, with the weights that it begins or goes on with.
        """

    def begin(self, module: Any) -> None:
        """`prepare`, and move everything to the device of the training."""
        self.prepare(module)
        self.to(module.device)

    def losses(
        self, module: Any, batch: Batch, lq: Tensor, features: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch by name, weighted: their sum is minimised. Which there are depends on the step alone.

        Args:
            module: the `RestorationModule` that is trained.
            batch: of the step.
            lq: (B, 3, H, W) in [0, 1], upscaled.
            features: of the structure prior.
            images: the Processor's, which a residual refers to.
        """
        raise NotImplementedError

    def networks(self) -> Iterator[nn.Module]:
        """Networks that the objective uses beside the one that is trained."""
        return iter(())

    def judged(self, pictures: Tensor) -> list[Tensor]:
        """What networks that judge pictures (B, 3, H, W) make of them: for an estimate of memory, without any draw."""
        return []

    def rehearse(self, latents: Tensor, lq: Tensor, prompt_embeds: Tensor, tokens: Tensor) -> None:
        """Compute what learns along with the network of its latents (B, C, h, w): for the same estimate."""

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

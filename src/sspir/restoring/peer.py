"""A peer in the place of a pipeline, so that folders of photos are restored with it too."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sspir.captioners.base import Captioner, NoCaption
from sspir.images.room import Size, enlarged
from sspir.peers.base import TILE, Peer, restored
from sspir.sampling.loop import OnStep, Step
from sspir.sampling.output import RestorationOutput


@dataclass(frozen=True)
class Tiles:
    """The only setting of a peer.

    Attributes:
        tile: largest side of what it sees at a time, in pixels of the photo; None: all at once.
    """

    tile: int | None = TILE

    @property
    def region(self) -> int | None:
        """The side, by the name that `Sampler` has for what it restores at a time."""
        return self.tile

    def low_memory(self) -> "Tiles":
        """The settings in smaller pieces."""
        return replace(self, tile=min(self.tile or TILE, TILE // 4))


class PeerPipeline:
    """What `JobRunner` asks of a `RestorationPipeline`, answered by a peer: no words, no noise, no steps.

    Attributes:
        captioner: none.

    Args:
        peer: the restorer.
        device: where it runs.
        max_output_pixels: that a result may have.
    """

    def __init__(self, peer: Peer, device: torch.device, max_output_pixels: float) -> None:
        self.peer = peer
        self._execution_device = device
        self.max_output_pixels = max_output_pixels
        self.captioner: Captioner = NoCaption()

    def size_of(self, lq: Tensor, scale: float | Size | None = None) -> tuple[int, int]:
        """As of `RestorationPipeline`; by default the peer's own scale."""
        return enlarged((lq.shape[-2], lq.shape[-1]), scale or self.peer.scale, self.max_output_pixels)

    def restore(
        self,
        lq: Tensor,
        captions: Sequence[str],
        size: tuple[int, int],
        seeds: Sequence[int],
        sampler: Tiles,
        on_step: OnStep,
    ) -> RestorationOutput:
        """As of `RestorationPipeline`; captions and seeds change nothing, and there is one step."""
        images = restored(self.peer, lq.to(self._execution_device), size, sampler.tile)
        on_step(Step(1, 1, images, torch.tensor(0), lambda: images))
        return RestorationOutput(images, [], list(captions))

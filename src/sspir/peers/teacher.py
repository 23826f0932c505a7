"""A peer as the teacher of a training: batched, on the training's device where its network is known to torch."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from sspir.config.compose import choices
from sspir.errors import UserError
from sspir.peers.base import Peer
from sspir.peers.find import find_peer, is_model_file
from sspir.peers.ncnn import NcnnPeer
from sspir.peers.spandrel import rrdbnet


class Teacher(nn.Module):
    """Makes pictures of low-quality images by a peer, which is loaded as a training begins, not where its run is read.

    Files for spandrel and Real-ESRGAN run in torch; other networks in ncnn's format on the CPU, picture by picture.

    Args:
        name: of a choice in conf/peer, or a file of weights for spandrel.
        dtype: of Real-ESRGAN, "float32" (the default, and that of all others) or "bfloat16", in which its pictures of
            photos are .6 grey levels away, in a quarter of the time on CPUs that multiply in it.

    Raises:
        UserError: it is neither, or the type none of these or not its own. A .yaml file is none: a stranger's run may
            name one, which could run anything.
    """

    def __init__(self, name: str, dtype: str | None = None) -> None:
        super().__init__()
        if not is_model_file(name) and name not in (known := choices("peer")):
            raise UserError(
                f"The teacher {name} is not known; choose one of {', '.join(known)}, or a file such as x.pth."
            )
        if dtype not in (None, "float32", "bfloat16"):
            raise UserError(f"The teacher's dtype={dtype!r} is not known; choose float32 or bfloat16.")
        if dtype == "bfloat16" and name != "realesrgan":
            raise UserError(f"The teacher {name} takes float32 alone; set objective.teachers.dtype=null.")
        self.name, self.dtype = name, torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.peer: Peer | None = None
        self.network: nn.Module | None = None

    def load(self) -> Peer:
        """Load the peer, once.

        Raises:
            UserError: its weights or a package are not here.
        """
        if self.peer is None:
            self.peer = find_peer(self.name)
            if isinstance(self.peer, NcnnPeer) and self.name == "realesrgan":
                self.network = rrdbnet(self.peer)
                if self.dtype != torch.float32:
                    self.network.to(self.dtype).to(memory_format=torch.channels_last)
        return self.peer

    def to(self, *arguments: Any, **options: Any) -> Self:
        """Load the peer and move it: what is missing is told before the first step."""
        self.load()
        return super().to(*arguments, **options)

    @torch.no_grad()
    def forward(self, lq: Tensor) -> Tensor:
        """Pictures (B, 3, scale h, scale w) in [0, 1] of images (B, 3, h, w) in [0, 1], on their device.

        They are made in the teacher's own type, whatever the precision of the training.
        """
        peer = self.load()
        with torch.autocast(lq.device.type, enabled=False):
            if self.network is None:
                return peer.restore(lq)
            return self.network(lq.to(self.dtype)).to(lq).clamp(0, 1)

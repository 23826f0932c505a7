"""Any network that spandrel knows, from a .pth or .safetensors file, as a torch module: batched, on any device."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sspir.errors import UserError
from sspir.peers.base import Peer, checked
from sspir.peers.ncnn import NcnnPeer, fill_from_ncnn

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")


class SpandrelPeer(Peer):
    """A network whose architecture spandrel recognises by its weights.

    Args:
        path: of the weights; they are read as tensors, a file that holds code is refused.
        sha256: of the file, where that is known.
        source: in words; the path by default.
        licence: of the weights.

    Attributes:
        network: the torch module, (N, 3, h, w) in [0, 1] to (N, 3, scale h, scale w).

    Raises:
        UserError: spandrel or the file is missing, or the file holds no restorer of colour photos.
    """

    def __init__(self, path: str, sha256: str | None = None, source: str = "", licence: str = "") -> None:
        place = Path(path).expanduser()
        self.checksum = checked(place, sha256, "correct its path")
        self.source, self.licence = source or str(place), licence
        self.network = _network(place)
        self.scale = int(self.network.scale)

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Tensor:
        """As of `Peer`."""
        if self.network.device != lq.device:
            self.network.to(lq.device)
        return self.network(lq.float()).clamp(0, 1).to(lq.dtype)

    def parameters(self) -> int | None:
        """As of `Peer`."""
        return sum(parameter.numel() for parameter in self.network.model.parameters())

    def macs(self, height: int, width: int) -> float | None:
        """As of `Peer`, of convolutions and matrix products, counted while it runs."""
        from sspir.peers.cost import macs_of

        device = self.network.device
        return macs_of(lambda: self.restore(torch.zeros(1, 3, height, width, device=device)))


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a file.

    Raises:
        UserError: it cannot be read, or holds code.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of the disk, safetensors, or one of the many that pickle raises
        raise UserError(
            f"{path} is not loaded: it is damaged, or holds more than tensors, which could run code; copy it again, or "
            f"have its weights saved as .safetensors."
        ) from error


def _network(path: Path) -> Any:
    """The network in a file, as spandrel describes it, in evaluation mode."""
    try:
        import spandrel
    except ImportError as error:
        raise UserError(f"{path} needs the package spandrel: pip install 'sspir[peers]'") from error
    weights = read_weights(path)
    try:
        network = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(weights))
    except Exception as error:  # of the architectures, which look into tensors of any shape
        raise UserError(f"spandrel knows no network with the weights of {path}; name another file.") from error
    if not isinstance(network, spandrel.ImageModelDescriptor) or (network.input_channels, network.output_channels) != (
        3,
        3,
    ):
        raise UserError(f"The {network.architecture.name} of {path} does not turn photos to photos; name another file.")
    return network.eval()


def rrdbnet(peer: NcnnPeer) -> Any:
    """Real-ESRGAN's network in torch, with the weights of its peer in ncnn's format: batched, on any device.

    Args:
        peer: `realesrgan`.

    Returns:
        An RRDBNet of spandrel, (N, 3, h, w) in [0, 1] to (N, 3, 4 h, 4 w), whose state dict `SpandrelPeer` reads.

    Raises:
        UserError: spandrel is missing, or the peer is another network.
    """
    try:
        from spandrel.architectures.ESRGAN import ESRGAN
    except ImportError as error:
        raise UserError("Real-ESRGAN in torch needs the package spandrel: pip install 'sspir[peers]'") from error
    network = ESRGAN(num_filters=64, num_blocks=23, scale=peer.scale)
    fill_from_ncnn(network, peer.weights)
    return network.eval()

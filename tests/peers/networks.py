"""Tiny networks of two kinds, in files as people have them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.peers import Peer
from sspir.peers.ncnn import FLOAT16
from tests.needs import needs

PARAM = """7767517
5 5
Input input 0 1 data
Convolution conv 1 1 data a 0=8 1=3 4=1 5=1 6=216
ReLU relu 1 1 a b
Convolution up 1 1 b c 0=12 1=3 4=1 5=1 6=864
PixelShuffle shuffle 1 1 c output 0=2
"""


class Brighter(Peer):
    """A class of one's own, whose checksum does not tell its settings."""

    scale, source, licence, checksum = 4, "", "", "none"

    def __init__(self, plus: float) -> None:
        self.plus = plus

    def restore(self, lq: Tensor) -> Tensor:
        return F.interpolate(lq + self.plus, scale_factor=4).clamp(0, 1)

    def parameters(self) -> int | None:
        return 0

    def macs(self, height: int, width: int) -> float | None:
        return None


def brighter(file: Path, plus: float) -> str:
    """A choice of `Brighter`, as a .yaml file."""
    file.write_text(f"_target_: tests.peers.networks.Brighter\nplus: {plus}\n")
    return str(file)


def torch_twin(seed: int = 0) -> nn.Module:
    """The network of PARAM, which doubles photos; its numbers are those of float16."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
    )
    return network.half().float().eval()


def ncnn_files(folder: Path, network: nn.Module, half: bool = True) -> dict[str, str]:
    """Write a network of PARAM as ncnn's pair of files."""
    data = b""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weights = module.weight.detach().numpy().astype(np.float16 if half else np.float32).tobytes()
            data += (FLOAT16 if half else 0).to_bytes(4, "little") + weights + module.bias.detach().numpy().tobytes()
    (folder / "tiny.param").write_text(PARAM)
    (folder / "tiny.bin").write_bytes(data)
    return {"layers": str(folder / "tiny.param"), "weights": str(folder / "tiny.bin")}


def rrdbnet_file(path: Path) -> Path:
    """Random weights of a small RRDBNet, which makes photos four times as large, as a .pth."""
    needs("spandrel", "peers")
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), path)
    return path

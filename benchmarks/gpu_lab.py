"""What the parts of bench_gpu.py share: networks with random weights, clocks, memory, photos."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from sspir.config.compose import compose_config, load_choice
from sspir.images.io import write_image
from sspir.images.picture import Picture
from sspir.memory import peak_bytes, reset_peak
from sspir.pretrained.load import shapes_only
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.module import RestorationModule
from sspir.training.run import build_module

GIB = 2**30
Figures = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Figures]]]

MODES = {"eager": False, "captured": True}
GUIDED, UNGUIDED = {"guidance": 5.5}, {"guidance": 1.0}


class Lab:
    """A device and what was measured on it.

    Args:
        tiny: small networks and few repeats, to see on a CPU that everything runs.
        folder: for photos and runs; temporary.

    Attributes:
        seconds: what was measured, by the name of the case; later cases divide by it.
        operations: floating-point operations of what was measured, by the name of the case.
        pictures: (1, 3, H, W) in [0, 1], what was restored, by the name of the case.
    """

    def __init__(self, tiny: bool, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        self.device = torch.device("cpu" if tiny or not torch.cuda.is_available() else "cuda")
        self.on_gpu = self.device.type == "cuda"
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, float] = {}
        self.pictures: dict[str, Tensor] = {}

    @property
    def machine(self) -> Figures:
        """What figures are worth nothing without."""
        card = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        return {"device": card, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": self.tiny}

    @property
    def size(self) -> int:
        """Side of a restored picture, pixels."""
        return 64 if self.tiny else 512

    def module(self, *changes: str) -> RestorationModule:
        """The recommended experiment at Stable Diffusion 1.5's size, made on the device; every layer takes part."""
        config = compose_config(
            "train",
            [f"experiments={'tiny' if self.tiny else 'ssp_ir'}", "captioner=none", "callbacks.ema=null", *changes],
        )
        config.module.metrics = {}
        with shapes_only(), torch.device(self.device):  # the inner device counts: weights as they are first drawn
            module = build_module(config)
        module.noise_schedule = type(module.noise_schedule).from_config(module.noise_schedule.config)  # on the CPU
        for weight in module.backbone.parameters():
            if weight.ndim > 1 and not weight.any():  # new layers start at zero and would hide what they get
                weight.data.normal_(std=0.01)
        return module.train()

    @cached_property
    def networks(self) -> RestorationPipeline:
        """The pipeline of many steps, its denoiser in bfloat16."""
        pipeline = self.module().eval().pipeline.in_dtype("bfloat16")
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def one_step(self) -> RestorationPipeline:
        """The same networks restoring in one step, as experiments=ssp_ir_one_step does."""
        names = ("vae", "tokenizer", "text_encoder", "image_encoder", "refine", "scheduler")
        parts = {name: getattr(self.networks, name) for name in names}
        sampler = instantiate(load_choice("sampler", "one_step"))
        settings = {"one_step": True, "residual": self.networks.config.residual}
        return RestorationPipeline.from_parts(self.networks.backbone, sampler, **parts, **settings)

    def forget(self) -> None:
        """Drop networks and pictures, and give their memory back."""
        for name in ("networks", "one_step"):
            self.__dict__.pop(name, None)
        self.pictures.clear()
        self.tidy()

    def tidy(self) -> None:
        """Give back what nobody holds, put the settings of training back, and measure peaks from now on."""
        gc.collect()
        torch.set_float32_matmul_precision("highest")
        if self.on_gpu:
            torch.cuda.empty_cache()
        reset_peak(self.device)

    def photo(self, height: int = 0, width: int = 0) -> Tensor:
        """A smooth picture (1, 3, height, width) in [0, 1] on the device; by default a quarter of `size`."""
        shape = (height or self.size // 4, width or self.size // 4)
        noise = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(noise, shape, mode="bicubic")
        return smooth.clamp(0, 1).to(self.device)

    def photos(self) -> Path:
        """A folder of sixteen photos of 256 x 256."""
        folder = self.folder / "photos"
        for number in range(0 if folder.is_dir() else 16):
            grain = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(number)) - 0.5
            self.write(folder / f"{number}.png", self.photo(256, 256).cpu().roll(16 * number, -1) + 0.1 * grain)
        return folder

    def write(self, path: Path, picture: Tensor) -> None:
        """Write a picture (1, 3, H, W) as a file."""
        write_image(path, Picture((255 * picture[0].clamp(0, 1)).byte().permute(1, 2, 0).contiguous().cpu().numpy()))

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def timed(self, name: str, call: Callable[[], object], warm: int = 1, most: float = 8.0) -> Figures:
        """Median seconds of five calls, fewer (but two) where they take more than `most` seconds; kept by name."""
        for _ in range(warm):
            call()
        taken: list[float] = []
        while len(taken) < (2 if self.tiny else 5) and (len(taken) < 2 or sum(taken) < most):
            self.wait()
            started = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - started)
        self.seconds[name] = statistics.median(taken)
        return {"seconds": self.seconds[name], "runs": len(taken)}

    def memory(self) -> Figures:
        """The most that tensors took since `tidy`, and what torch held for them, graphs included."""
        held = {"held_gib": torch.cuda.max_memory_reserved() / GIB} if self.on_gpu else {}
        return {"peak_gib": peak_bytes(self.device) / GIB, **held}

    def ratio(self, name: str, upper: str, lower: str) -> Figures:
        """How much longer one case took than another, where both were measured."""
        both = upper in self.seconds and lower in self.seconds
        return {name: self.seconds[upper] / self.seconds[lower]} if both else {}

    @contextmanager
    def memory_limit(self, gib: float) -> Iterator[None]:
        """Within, a GPU has no more memory than this, by what torch gives and by what it tells."""
        if not self.on_gpu:
            yield
            return
        told, total = torch.cuda.mem_get_info, torch.cuda.mem_get_info()[1]
        limit = int(gib * GIB)
        torch.cuda.set_per_process_memory_fraction(limit / total)
        torch.cuda.mem_get_info = lambda device=None: (max(0, limit - torch.cuda.memory_reserved()), limit)
        try:
            yield
        finally:
            torch.cuda.mem_get_info = told
            torch.cuda.set_per_process_memory_fraction(1.0)

"""The learned metrics of the published tables, by their very names, through the extra `learned` (pyiqa).

pyiqa's licence, PolyForm Noncommercial, covers the measuring, not this package. Nothing is ever downloaded: a metric
whose package or weights are missing says so, and `sspir doctor metrics` prints where they go. pyiqa unpickles its
weights, so only files whose checksum begins as published are handed to it.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import (
    FolderMetric,
    FullReferenceMetric,
    MetricUnavailableError,
    NoReferenceMetric,
    check_pair,
    to_pixels,
)

PYIQA_WEIGHTS = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
TORCHVISION_WEIGHTS = "https://download.pytorch.org/models/"
CLIP_RN50 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
CLIP_WEIGHTS = f"https://openaipublic.azureedge.net/clip/models/{CLIP_RN50}/"
TIMM_WEIGHTS = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"


@dataclass(frozen=True)
class WeightFile:
    """A file of weights and where its loader looks for it.

    Attributes:
        folder: below torch's hub folder ($TORCH_HOME/hub); "" for Hugging Face's cache.
        name: of the file, or of the repository in Hugging Face's cache.
        sha256: what the checksum begins with; "" where none is published.
        source: folder on the web that publishes it.
    """

    folder: str
    name: str
    sha256: str
    source: str

    @property
    def path(self) -> Path:
        """Where the file has to be."""
        if self.folder:
            return Path(torch.hub.get_dir(), self.folder, self.name)
        from huggingface_hub import constants, try_to_load_from_cache

        found = try_to_load_from_cache(self.name, "model.safetensors")
        if isinstance(found, str):
            return Path(found)
        return Path(constants.HF_HUB_CACHE, "models--" + self.name.replace("/", "--"))

    def problem(self) -> str | None:
        """What is wrong with the file, in words, or None."""
        if not self.path.is_file():
            checksum = f" (sha256 {self.sha256}{'...' if len(self.sha256) < 64 else ''})" if self.sha256 else ""
            return f"{self.path} is missing; put {self.source}{self.name if self.folder else ''}{checksum} there"
        if not sha256(self.path).startswith(self.sha256):
            return f"{self.path} is broken: its sha256 does not begin with {self.sha256}; download it again"
        return None


def _pyiqa_file(name: str, checksum: str) -> WeightFile:
    return WeightFile("pyiqa", name, checksum, PYIQA_WEIGHTS)


WEIGHTS: dict[str, tuple[WeightFile, ...]] = {
    "lpips": (
        WeightFile("checkpoints", "alexnet-owt-7be5be79.pth", "7be5be79", TORCHVISION_WEIGHTS),
        _pyiqa_file("LPIPS_v0.1_alex-df73285e.pth", "df73285e"),
    ),
    "dists": (
        WeightFile("checkpoints", "vgg16-397923af.pth", "397923af", TORCHVISION_WEIGHTS),
        _pyiqa_file("DISTS_weights-f5e65c96.pth", "f5e65c96"),
    ),
    "musiq": (_pyiqa_file("musiq_koniq_ckpt-e95806b9.pth", "e95806b9"),),
    "maniqa-pipal": (
        WeightFile("", TIMM_WEIGHTS, "", f"the cached snapshot of https://huggingface.co/{TIMM_WEIGHTS}"),
        _pyiqa_file("MANIQA_PIPAL-ae6d356b.pth", "ae6d356b"),
    ),
    "clipiqa": (WeightFile("clip", "RN50.pt", CLIP_RN50, CLIP_WEIGHTS),),
    "fid": (_pyiqa_file("pt_inception-2015-12-05-6726825d.pth", "6726825d"),),
}


def problems(name: str) -> list[str]:
    """Everything that a learned metric lacks, one sentence each; empty if it can run."""
    found = [] if importlib.util.find_spec("pyiqa") else ["the package pyiqa is missing; pip install 'sspir[learned]'"]
    return found + [problem for file in WEIGHTS[name] if (problem := file.problem()) is not None]


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LearnedFullReference(FullReferenceMetric):
    """LPIPS (AlexNet, v0.1) or DISTS.

    Args:
        name: "lpips" or "dists".
    """

    higher_is_better = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self._model = check_name(name, ("lpips", "dists")), None

    def require(self) -> None:
        """Load the network; raises MetricUnavailableError where something is missing."""
        self._model = self._model or load(self.name)

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Distance (B,), lower is better."""
        check_pair(preds, target)
        self.require()
        return _values(self._model, to_pixels(preds) / 255, to_pixels(target) / 255)


class LearnedNoReference(NoReferenceMetric):
    """MUSIQ (KonIQ), MANIQA (PIPAL) or CLIP-IQA.

    Args:
        name: "musiq", "maniqa-pipal" or "clipiqa".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self._model = check_name(name, ("musiq", "maniqa-pipal", "clipiqa")), None

    def require(self) -> None:
        """Load the network; raises MetricUnavailableError where something is missing."""
        self._model = self._model or load(self.name)

    def score(self, preds: Tensor) -> Tensor:
        """Quality (B,), higher is better."""
        self.require()
        return _values(self._model, to_pixels(preds) / 255)


class FID(FolderMetric):
    """Fréchet Inception distance of two folders: clean-fid on whole images. Few images make it large and noisy."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self._model: Any = None

    def require(self) -> None:
        """Load the network; raises MetricUnavailableError where something is missing."""
        self._model = self._model or load("fid")

    def score_folders(self, preds: Path, target: Path) -> float:
        """Distance of the pictures in two folders, lower is better."""
        self.require()
        with torch.inference_mode():
            return float(self._model(str(preds), str(target), num_workers=0, verbose=False))


def load(name: str) -> Any:
    """Build a network of pyiqa on the CPU, from files that are there.

    Raises:
        MetricUnavailableError: something is missing or broken; all of it is named.
    """
    found = problems(name)
    if found:
        raise MetricUnavailableError(f"{name} cannot run: {'; '.join(found)}. `sspir doctor metrics` lists all.")
    import pyiqa

    with _no_downloads(), redirect_stdout(sys.stderr):  # pyiqa prints what it loads
        return pyiqa.create_metric(name, device=torch.device("cpu"))


def check_name(name: str, known: tuple[str, ...]) -> str:
    """The name of a learned metric, checked.

    Raises:
        UserError: it is not known.
    """
    if name not in known:
        raise UserError(f"There is no learned metric {name!r} of this kind; choose among {', '.join(known)}.")
    return name


def _values(model: Any, *images: Tensor) -> Tensor:
    with torch.inference_mode():
        values: Tensor = model(*(image.cpu() for image in images))
    return values.flatten().to(images[0].device)


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Hugging Face asks its server even about files in its cache, unless it is told not to."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

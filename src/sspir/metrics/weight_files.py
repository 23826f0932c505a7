"""The files of weights that the learned metrics need: place, checksum and source."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from sspir.files import sha256

PYIQA_WEIGHTS = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
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
        """The path at which the metric looks for the file."""
        if self.folder:
            return Path(torch.hub.get_dir(), self.folder, self.name)
        from huggingface_hub import constants, try_to_load_from_cache

        found = try_to_load_from_cache(self.name, "model.safetensors")
        if isinstance(found, str):
            return Path(found)
        return Path(constants.HF_HUB_CACHE, "models--" + self.name.replace("/", "--"))

    def problem(self) -> str | None:
        """A sentence if the file is missing or broken, else None."""
        if not self.path.is_file():
            checksum = f" (sha256 {self.sha256}{'...' if len(self.sha256) < 64 else ''})" if self.sha256 else ""
            return f"{self.path} is missing; put {self.source}{self.name if self.folder else ''}{checksum} there"
        if not sha256(self.path).startswith(self.sha256):
            return f"{self.path} is broken: its sha256 does not begin with {self.sha256}; download it again"
        return None


def _pyiqa_file(name: str, checksum: str) -> WeightFile:
    return WeightFile("pyiqa", name, checksum, PYIQA_WEIGHTS)


WEIGHTS: dict[str, tuple[WeightFile, ...]] = {
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

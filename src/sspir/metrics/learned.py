"""The learned metrics of the published tables, by their very names, through the extra `learned` (pyiqa).

pyiqa's licence, PolyForm Noncommercial, covers the measuring, not this package. Nothing is ever downloaded: a metric
whose package or weights are missing says so, and `sspir doctor metrics` prints where they go. pyiqa unpickles its
weights, so only files whose checksum begins as published are handed to it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import (
    FolderMetric,
    ImageMetric,
    MetricUnavailableError,
    NoReferenceMetric,
    to_pixels,
)
from sspir.metrics.weight_files import problems
from sspir.moved import old_names_of


class Learned(ImageMetric):
    """A metric that is a network of pyiqa, loaded when it is needed first.

    Args:
        name: one of `known`.

    Raises:
        UserError: another name.
    """

    known: ClassVar[tuple[str, ...]]

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in self.known:
            raise UserError(f"There is no learned metric {name!r} of this kind; choose among {', '.join(self.known)}.")
        self.name = name
        self._model: Any = None

    def require(self) -> None:
        """Load the network; raises MetricUnavailableError where something is missing."""
        self._model = self._model or load(self.name)


class LearnedNoReference(Learned, NoReferenceMetric):
    """MUSIQ (KonIQ), MANIQA (PIPAL) or CLIP-IQA."""

    known = ("musiq", "maniqa-pipal", "clipiqa")

    def score(self, preds: Tensor) -> Tensor:
        """Quality (B,), higher is better."""
        self.require()
        return _values(self._model, to_pixels(preds) / 255)


class FID(Learned, FolderMetric):
    """Fréchet Inception distance of two folders: clean-fid on whole images. Few images make it large and noisy."""

    known = ("fid",)
    higher_is_better = False

    def __init__(self) -> None:
        super().__init__("fid")

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
        raise MetricUnavailableError(f"{'; '.join(found)} (`sspir doctor metrics` lists all).")
    import pyiqa

    with _no_downloads(), redirect_stdout(sys.stderr):  # pyiqa prints what it loads
        return pyiqa.create_metric(name, device=torch.device("cpu"))


def _values(model: Any, *images: Tensor) -> Tensor:
    with torch.inference_mode():
        values: Tensor = model(*(image.cpu() for image in images))
    return values.flatten().to(images[0].device)


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Within, Hugging Face does not ask its server, which it does even about files in its cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


__getattr__ = old_names_of(__name__)

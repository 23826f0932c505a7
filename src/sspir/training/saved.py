"""Pipelines that were saved: read with care, and told from each other by their weights."""

import hashlib
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from sspir.config import outside
from sspir.config.trust import check_pipeline
from sspir.errors import UserError
from sspir.files import sha256
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.run import CONFIG

MODELS = Path(__file__).parents[1] / "weights" / "shipped"
"""The small models that ship with the package."""
SHIPPED = MODELS / "small"
"""The one that is meant where none is named."""
INDEX = "model_index.json"
SUMS = "SHA256SUMS"
"""Written by `sspir export`."""


def folder_of(model: str | Path) -> Path:
    """The folder of a model: "shipped" and "shipped/NAME" mean those that come along, unless such a one is here.

    Raises:
        UserError: no model of that name comes along.
    """
    place = Path(model).expanduser()
    if place.parts[:1] != ("shipped",) or any((place / name).is_file() for name in (CONFIG, INDEX)):
        return place
    if place.parts[1:] and not (MODELS / place.parts[1] / INDEX).is_file():
        there = ", ".join(f"shipped/{folder.parent.name}" for folder in sorted(MODELS.glob(f"*/{INDEX}")))
        raise UserError(f"{model} is no model that comes along; there are {there}.")
    return MODELS.joinpath(*place.parts[1:]) if place.parts[1:] else SHIPPED


def load_saved(folder: Path) -> RestorationPipeline:
    """A pipeline that `save_pretrained` wrote, after its checksums and the classes it names were looked at.

    Raises:
        UserError: it is broken, or not to be trusted.
    """
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # of shards and components; ours count photos
    verify(folder)
    outside.activate()
    try:
        check_pipeline(folder)
        return RestorationPipeline.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The pipeline in {folder} is broken ({error}); save or copy it again.") from error


def verify(folder: Path) -> None:
    """Refuse a folder whose files do not match its SHA256SUMS; a folder without the file passes.

    Raises:
        UserError: a file is missing or differs.
    """
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; copy or install the weights again.")
        if sha256(path) != expected:
            raise UserError(f"{path} is damaged: its SHA-256 is not the one in {SUMS}; copy or install it again.")


def weights_id(pipeline: RestorationPipeline) -> str:
    """Sixteen digits of a hash of all weights of a pipeline."""
    digest = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        for key, value in part.state_dict().items() if isinstance(part, torch.nn.Module) else ():
            digest.update(f"{name}.{key} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]

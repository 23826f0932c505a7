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

SHIPPED = Path(__file__).parents[1] / "weights" / "shipped" / "tiny"
"""The small model that ships with the package."""
INDEX = "model_index.json"
SUMS = "SHA256SUMS"
"""Written by `sspir export`."""


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

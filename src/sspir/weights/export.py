"""A trained run as a folder to publish: a pipeline, a model card, and the sums that prove it whole."""

import json
import shutil
from pathlib import Path

import torch
from omegaconf import OmegaConf

from sspir.errors import UserError
from sspir.files import sha256
from sspir.training.run import CONFIG, ENVIRONMENT
from sspir.training.saved import SUMS
from sspir.weights.load import load_pipeline, step_of

CARD = "README.md"
TRAINING = "training.yaml"


def export(run: str | Path, out: str | Path, checkpoint: str = "last", dtype: str = "float16") -> None:
    """Write a run as a pipeline folder.

    Args:
        run: folder of a trained run.
        out: folder to make, with those above it; it must not exist, and appears when it is complete.
        checkpoint: "last", "best" or a file name.
        dtype: of the weights on disk, "float32", "float16" or "bfloat16"; the Processor and a linear autoencoder, which
            are small and decide the picture to the last bit, keep float32.

    Raises:
        UserError: `run` is no run, or `out` exists.
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise UserError(f"{out} exists; choose another folder, or remove it first.")
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} is no run: it has no {CONFIG}; name the folder of a trained run.")
    pipeline = load_pipeline(run, checkpoint)
    pipeline.in_dtype(dtype)
    for part in (pipeline.text_encoder, pipeline.image_encoder, pipeline.refine):
        torch.nn.Module.to(part, getattr(torch, dtype))
    folder = out.with_name(f".{out.name}.part")  # always the same, so that what a kill has left is replaced
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        pipeline.save_pretrained(folder)
        (folder / CARD).write_text(card(run, checkpoint), encoding="utf-8")
        shutil.copy(run / CONFIG, folder / TRAINING)
        sums = "".join(f"{sha256(path)}  {name}\n" for name, path in _files(folder))
        (folder / SUMS).write_text(sums, encoding="utf-8")
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def card(run: Path, checkpoint: str) -> str:
    """The model card of a run: what it was trained on and how; results are for its author to add."""
    config = OmegaConf.load(run / CONFIG)
    environment = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8")) if (run / ENVIRONMENT).is_file() else {}
    facts = {
        "experiment": f"{config.name}, ablation {config.variant}, seed {config.seed}, checkpoint {checkpoint}",
        "steps": f"{step_of(run, checkpoint)} of {config.batch_size} images",
        "code": environment.get("code", "unknown"),
    }
    lines = [f"- **{name}**: {value}" for name, value in facts.items()]
    return "\n".join([f"# {config.name}", "", *lines, "", f"Every setting stands in `{TRAINING}`.", ""])


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Name and path of the files that get checksums: all but the card and the configuration, which may be edited."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [(path.relative_to(folder).as_posix(), path) for path in paths]
    return [(name, path) for name, path in named if name not in (CARD, TRAINING)]

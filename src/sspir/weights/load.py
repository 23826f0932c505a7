"""Load a pipeline from whatever people call "the weights": a run, a saved pipeline, the authors' checkpoint."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from sspir.captioners.base import Captioner, provenance_of
from sspir.errors import UserError
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.run import CONFIG, find_checkpoint
from sspir.training.saved import INDEX, SHIPPED, folder_of, load_saved
from sspir.weights import authors

log = logging.getLogger(__name__)


def load_pipeline(
    path: str | Path = SHIPPED,
    checkpoint: str = "last",
    stable_diffusion: str | None = None,
    clip: str | None = None,
    captioner: Captioner | None = None,
) -> RestorationPipeline:
    """Load a pipeline from a run folder, from a folder that `save_pretrained` wrote, or from the authors' checkpoint.

    Args:
        path: the folder, or the name of a model that ships with the package: "shipped", the default, or "shipped/NAME".
        checkpoint: of a run: "last", "best" or a file name.
        stable_diffusion: for the authors' checkpoint, see `load_authors`.
        clip: for the authors' checkpoint, see `load_authors`.
        captioner: to use; None takes the captioner of the training. A run has all of its settings, a saved pipeline
            only its class: a captioner that needs weights, or that sends photos to another machine, is left out there,
            and a warning says so.

    Raises:
        UserError: the folder is none of these, its files do not match its SHA256SUMS, or an argument is for another.
    """
    folder = folder_of(path)
    if checkpoint != "last" and not is_run(folder):
        raise UserError(f"{path} is no run, and so has no checkpoint {checkpoint!r}; leave that out.")
    if (stable_diffusion or clip) and (is_run(folder) or is_saved(folder)):
        raise UserError(f"{path} has frozen networks of its own; leave out those that are for the authors' checkpoint.")
    pipeline = _load_pipeline(folder, checkpoint, stable_diffusion, clip)
    trained_with = pipeline.config.captioner
    if captioner is not None:
        pipeline.captioner = captioner
    elif provenance_of(pipeline.captioner)["captioner"] != trained_with:
        log.warning(
            "%s was trained with captions by %s, which does not come with it: photos without words get none; name a "
            "captioner by --captioner (restore), captioner=NAME (evaluate) or load_pipeline(captioner=...).",
            path,
            trained_with,
        )
    return pipeline


def _load_pipeline(
    folder: Path, checkpoint: str, stable_diffusion: str | None, clip: str | None
) -> RestorationPipeline:
    if is_run(folder):
        from sspir.training.module import RestorationModule

        module = RestorationModule.from_run(folder, checkpoint)
        pipeline = module.pipeline
        if isinstance(module.captioner, Captioner) and not module.captioner.remote:
            pipeline.captioner = module.captioner
        return pipeline
    if is_saved(folder):
        return load_saved(folder)
    require_weights(folder)
    if stable_diffusion and clip:
        return authors.load_authors(folder, stable_diffusion, clip)
    raise UserError(
        f"{folder} is the authors' checkpoint, which lacks the frozen networks: "
        f"name a Stable Diffusion 1.5 and a CLIP ViT-L/14 folder too (--stable-diffusion and --clip)."
    )


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training."""
    return (folder / CONFIG).is_file()


def is_saved(folder: Path) -> bool:
    """Whether `save_pretrained` wrote a folder; a run may hold the same file, and counts as a run."""
    return not is_run(folder) and (folder / INDEX).is_file()


def require_weights(path: str | Path) -> None:
    """Refuse a path that is clearly nothing `load_pipeline` takes, without loading anything.

    Raises:
        UserError: it holds no weights.
    """
    folder = folder_of(path)
    if is_run(folder) or is_saved(folder):
        return
    if all((folder / part).is_dir() for part in authors.PARTS):
        return
    raise UserError(
        f"{folder} {'holds no weights' if folder.exists() else 'is not there'}: name shipped or shipped/tiny, which "
        f"come along, a run folder (with {CONFIG}), a saved pipeline (with {INDEX}), or the authors' checkpoint (with "
        f"{', '.join(authors.PARTS)})."
    )


def weights_time(path: str | Path) -> str:
    """When the newest weights in a folder were written, for records that newer weights make invalid."""
    kinds = (".safetensors", ".ckpt", ".bin", ".pt")
    times = [file.stat().st_mtime for file in folder_of(path).rglob("*") if file.suffix in kinds]
    return datetime.fromtimestamp(max(times, default=0), UTC).isoformat(timespec="seconds")


def step_of(run: Path, checkpoint: str = "last") -> int:
    """The optimizer steps that a run's checkpoint has behind it."""
    from sspir.training.checkpoint import glance

    return int(glance(find_checkpoint(run, checkpoint))["global_step"])

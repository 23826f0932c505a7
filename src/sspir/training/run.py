"""A run folder: the files of a training, and how a model is rebuilt from them.

Importing it imports neither Lightning nor torchmetrics, which take seconds that restoring with a pipeline does without.
"""

import logging
import os
import platform
import secrets
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch
from hydra.utils import get_class, instantiate
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from sspir.config import outside
from sspir.config.build import with_settings
from sspir.config.trust import check_record, read_record
from sspir.errors import UserError
from sspir.files import write_text
from sspir.models.lora import merge_lora
from sspir.seeding import torch_seed

CONFIG = "config.yaml"  # resolved: what ran
COMPOSED = "composed.yaml"  # as composed, with references: what `sspir train --from` changes
CHECKPOINTS = "checkpoints"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
TRAIN_LOG = "train.log"  # Hydra names it so, after its job (conf/train.yaml)
WANDB_ID = "wandb.id"
TENSORBOARD = "tensorboard"
LOCK = ".lock"
LONGEST_PATCH = 1 << 20  # bytes
_PACKAGES = ("sspir", "torch", "pytorch-lightning", "diffusers", "transformers", "numpy")
# What training writes into its folder, the summary first; people's own files beside it are theirs.
OWN = (
    SUMMARY, METRICS, CONFIG, COMPOSED, ENVIRONMENT, CHECKPOINTS, "panels", "wandb", WANDB_ID, TENSORBOARD,
    "evaluation",
)  # fmt: skip

log = logging.getLogger(__name__)


def build_module(config: DictConfig) -> Any:
    """Instantiate the module of a training configuration and note the resolved configuration in it."""
    torch.manual_seed(torch_seed(config.seed))  # of weights that are new
    module = instantiate(config.module, _convert_="all")  # plain lists and dicts: parts are saved with their arguments
    module.config = OmegaConf.to_container(config, resolve=True)
    with_settings(module.captioner, module.config["module"].get("captioner", {}))
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


def load_run(folder: Path, checkpoint: str = "last", merged: bool = True) -> Any:
    """Rebuild the module of a run with its trained weights; see `RestorationModule.from_run`.

    Args:
        folder: of the run.
        checkpoint: "last", "best" or a file name.
        merged: add adapters to the layers they stand on, which are plain ones then.
    """
    from sspir.objectives.base import Objective
    from sspir.training.checkpoint import load_checkpoint

    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run folder: it has no {CONFIG}; name the folder that training wrote.")
    outside.activate()
    record = read_record(folder / CONFIG)
    check_record(record, folder / CONFIG)
    state = load_checkpoint(find_checkpoint(folder, checkpoint))
    whole = record.copy()
    objective = record.module.pop("objective", None)  # what judged it, and its weights, are not needed to restore
    with torch.random.fork_rng(devices=[]):  # the caller's numbers are not ours
        module = build_module(record)
        module.on_load_checkpoint({**state, "objective": {}})
    module.config = OmegaConf.to_container(whole, resolve=True)
    if objective:
        kind: Any = get_class(objective["_target_"])
        module.objective = Objective()
        module.objective.one_step, module.objective.noised = kind.one_step, objective.get("noised", kind.noised)
    module.load_state_dict({**state["state_dict"], **state.get("ema", {})}, strict=False)
    module.backbone.float()  # a U-Net held in half for training meets float32 parts outside autocast
    if merged:
        merge_lora(module.backbone)
    return module.eval()


def environment() -> dict[str, Any]:
    """The environment of a run: command, code and that in people's own folders, versions, machine."""
    own = {
        name: {
            "code": _git("rev-parse", "HEAD", of=folder).decode().strip(),
            "uncommitted": bool(_output(folder, "status", "--porcelain", "--", ".")),  # nothing of it may be tracked
        }
        for name, folder in outside.named().items()
    }
    return {
        "command": sys.argv,
        "code": _git("rev-parse", "HEAD").decode().strip(),
        "uncommitted": bool(_git("status", "--porcelain")),
        "own_code": own,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def code_state() -> tuple[dict[str, Any], bytes]:
    """The commit of this code and how the checkout differs from it, for W&B.

    Returns:
        "commit", whether there is something "uncommitted", and the "patch_bytes" of what git tracks of that; and the
        patch, empty where it is longer than `LONGEST_PATCH`.
    """
    facts = environment()
    patch = _git("diff-index", "--patch", "HEAD")
    state = {"commit": facts["code"], "uncommitted": facts["uncommitted"], "patch_bytes": len(patch)}
    return state, patch if len(patch) <= LONGEST_PATCH else b""


def code_root() -> str | None:
    """The checkout of this code; None for an installed package."""
    return _git("rev-parse", "--show-toplevel").decode().strip() or None


def _git(*arguments: str, of: Path = Path(__file__)) -> bytes:
    """The output of a git command in the checkout of this code, or of a folder; empty where git knows none of it.

    An installed package may lie in a repository of its user's, which is none of ours.
    """
    place, name = (of, ".") if of.is_dir() else (of.parent, of.name)
    listed = _output(place, "ls-files", "--full-name", name)
    known = listed if of.is_dir() else listed == b"src/sspir/training/run.py\n"  # not a copy that somebody tracks
    return _output(place, *arguments) if known else b""


def _output(place: Path, *arguments: str) -> bytes:
    """The output of a git command in a folder; empty where there is no git."""
    try:
        return subprocess.run(["git", "-C", str(place), *arguments], capture_output=True, check=False).stdout
    except OSError:
        return b""


def is_first_process() -> bool:
    """Whether this is the process, of all that train one run, that writes its files."""
    return not getattr(rank_zero_only, "rank", 0)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a run folder, and keep other trainings out of it until the end or until the process has died.

    Record locks belong to one process: one of `flock` would live on in a killed training's loader processes.

    Raises:
        UserError: another process trains in it, or the folder takes no files.
    """
    if not is_first_process():
        yield
        return
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    with locked(folder, "variant=NAME or folder=FOLDER"):
        yield


@contextmanager
def locked(folder: Path, remedy: str) -> Iterator[None]:
    """Keep other processes out of a folder, as in `alone_in`.

    Args:
        folder: of a run or a study, which is there.
        remedy: settings that name another folder.
    """
    try:
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error) from error
    with file:
        _lock(file, folder, remedy)
        yield


def is_trained_in(folder: Path) -> bool:
    """Whether another process trains in a run folder, asked without taking its lock; where no lock can be, false."""
    linux = sys.platform == "linux"
    layout, kind = ("hhqqi", 0) if linux else ("qqihh", 3)  # of C's `struct flock`, and where it says the kind of lock
    try:
        import fcntl

        wanted = (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0) if linux else (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
        with (folder / LOCK).open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *wanted))
    except (OSError, ImportError):
        return False
    return bool(struct.unpack(layout, answer)[kind] != fcntl.F_UNLCK)


def unwritable(folder: Path, error: OSError) -> UserError:
    """The sentence for a run folder that takes no files."""
    return UserError(
        f"The run folder {folder} takes no files ({error.strerror}); make room, or name another by folder=FOLDER."
    )


def _lock(file: TextIO, folder: Path, remedy: str) -> None:
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        raise UserError(
            f"{folder} is being trained in by {file.read() or 'another process'}; let it finish or end it, or name "
            f"another folder by {remedy}."
        ) from error
    except (OSError, ImportError) as error:  # some network disks, Windows
        log.warning("%s cannot be locked (%s): see to it that no other process trains in it.", folder, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()


def run_id(folder: Path) -> str:
    """Id of a run for W&B, kept in its folder, so that a run that goes on is the same W&B run.

    It is drawn once, unless an agent of a W&B sweep, which started this process, gives it.
    """
    path = folder / WANDB_ID
    given = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    if given or not path.is_file():
        write_text(path, given or secrets.token_hex(8))
    return path.read_text(encoding="utf-8")

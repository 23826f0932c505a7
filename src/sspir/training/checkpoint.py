"""Checkpoint files: written whole or not at all, the one before kept, refused in words where they are damaged."""

import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from sspir.errors import UserError
from sspir.files import replacing

LAST = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all: written beside their place, flushed, then moved onto it.

    Args:
        keep: how many of the last ones are there: `last.ckpt`, and `last-1.ckpt`, `last-2.ckpt`, ... from before it.
    """

    def __init__(self, keep: int = 1) -> None:
        if keep < 1:
            raise UserError(f"keep_checkpoints={keep} would keep none; choose 1 or more.")
        self.keep = keep
        self.step: int | None = None  # that `last.ckpt` is of

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            UserError: the disk is full or takes no files there.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                with partial.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if target.name == LAST and checkpoint.get("global_step") != self.step:
                    self._age(target)
                    self.step = checkpoint.get("global_step")
        except (OSError, RuntimeError) as error:  # torch tells a full disk as a RuntimeError
            before = "the one before is untouched" if target.exists() else "there is none yet"
            raise UserError(
                f"The checkpoint {target} cannot be written ({_reason(error)}), {before}: make room or correct the "
                f"folder, and start the same command again."
            ) from error

    def _age(self, last: Path) -> None:
        """Number the checkpoints that are there one up; `last` itself stays, under two names, until it is replaced."""
        for number in range(self.keep - 1, 0, -1):
            younger = earlier(last, number - 1)
            if younger.exists():
                twin(younger, earlier(last, number))


def earlier(last: Path, number: int) -> Path:
    """Where the checkpoint `number` saves before the last one is."""
    return last.with_name(f"{last.stem}-{number}{last.suffix}") if number else last


def twin(source: Path, target: Path) -> None:
    """Put a file's content under another name too, in one step; a link where the file system has them."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it, after its checksums were compared.

    Raises:
        UserError: the file is truncated or corrupted; the sentence names the one before it, where that is whole.
    """
    try:
        return _load(path)
    except Exception as error:
        sound = next((other for other in _others(path) if _is_sound(other)), None)
        offer = "there is no other one in its folder"
        if sound:
            offer = (
                f"{sound} is whole: name it by resume={sound.stem} to train on, by checkpoint={sound.stem} to use it"
            )
        raise UserError(f"The checkpoint {path} is truncated or corrupted ({_reason(error)}); {offer}.") from error


def glance(path: Path) -> dict[str, Any]:
    """A checkpoint as it is, without comparing its checksums: to read what is small in it.

    Raises:
        Exception: of any kind, where the file is damaged.
    """
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return loaded


def _load(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():  # torch would load it as it is
            raise ValueError(f"{damaged} is not what was written")
    return glance(path)


def _others(path: Path) -> list[Path]:
    """The other checkpoints beside one: those from before it, then the best one, each the newest first."""
    found = set(path.parent.glob("*.ckpt")) - {path}
    return sorted(found, key=lambda other: (not other.name.startswith(f"{path.stem}-"), -other.stat().st_mtime))


def _is_sound(path: Path) -> bool:
    with suppress(Exception):
        return bool(_load(path))
    return False


def _reason(error: BaseException) -> str:
    """The first system error behind an exception, or what it says in one line."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error).partition("\n")[0].strip(". ")

"""Checkpoints: written whole or not at all, the one before kept, refused where damaged or of another network."""

import os
import shutil
import zipfile
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from sspir.errors import UserError
from sspir.files import replacing
from sspir.models.controlled_unet import ControlledUNet
from sspir.training.strategy import full_tensor

VALIDATION_DUE = "validation_due"
"""Whether the validation of a checkpoint's step was still to come when it was written."""
LAST = "last.ckpt"


class DamagedError(UserError):
    """A checkpoint that is truncated or corrupted."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all: written beside their place, flushed, then moved onto it.

    Args:
        keep: how many of the last checkpoints stay: `last.ckpt`, and `last-1.ckpt`, `last-2.ckpt`, ... from before it.
    """

    def __init__(self, keep: int = 1) -> None:
        if keep < 1:
            raise UserError(f"keep_checkpoints={keep} would keep none; choose 1 or more.")
        self.keep = keep
        self.step: int | None = None  # of `last.ckpt`

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
                f"The checkpoint {target} cannot be written ({_reason(error)}); {before}. Make room or correct the "
                f"folder, and start the same command again."
            ) from error

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Read `path`; the step of `last.ckpt` is saved again in its place."""
        loaded = super().load_checkpoint(path, *arguments, **named)
        if Path(path).name == LAST:
            self.step = loaded.get("global_step")
        return loaded

    def _age(self, last: Path) -> None:
        """Give each checkpoint the name of the next older one; `last` keeps its name too until it is replaced."""
        for number in range(self.keep - 1, 0, -1):
            younger = earlier(last, number - 1)
            if younger.exists():
                link_or_copy(younger, earlier(last, number))


def earlier(last: Path, number: int) -> Path:
    """Path of the checkpoint that was written `number` saves before the last one."""
    return last.with_name(f"{last.stem}-{number}{last.suffix}") if number else last


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name in one step: by a hard link, or by a copy where the file system has no links."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it, after its checksums were compared.

    Raises:
        DamagedError: the file is truncated or corrupted; the sentence names the one before it, where that is whole.
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
        raise DamagedError(f"The checkpoint {path} is truncated or corrupted ({_reason(error)}); {offer}.") from error


def glance(path: Path) -> dict[str, Any]:
    """Read a checkpoint without comparing its checksums, for the small values in it; weights stay on the disk.

    Raises:
        Exception: of any kind, where the file is damaged.
    """
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return loaded


def keep_saved(checkpoint: dict[str, Any], saved: Container[str]) -> None:
    """Remove from a checkpoint all weights but those of some names."""
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {key: value for key, value in state.items() if key in saved}


def require_same_network(checkpoint: Mapping[str, Any], saved: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of another network.

    Args:
        checkpoint: as loaded.
        saved: name -> weight that a checkpoint of this network holds.

    Raises:
        UserError: a tensor is absent or has another shape; the sentence names the first.
    """
    if "state_dict" not in checkpoint:  # the strategy has loaded it, share by share
        return
    ours = {key: value.shape for key, value in saved.items()}
    theirs = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        raise UserError(
            f"The checkpoint is of another network: {len(differing)} tensors differ, first {differing[0]} "
            f"({theirs.get(differing[0], 'absent')} in the checkpoint, {ours.get(differing[0], 'absent')} here); "
            f"use the configuration it was trained with."
        )


def base_of(backbone: ControlledUNet) -> Tensor | None:
    """What a checkpoint recognises its base by; None if the U-Net is trained.

    512 weights of the frozen U-Net's first layer, and of every layer the first four, which show other adapters in it.
    """
    if backbone.train_unet:
        return None
    heads = [full_tensor(backbone.unet.conv_in.weight.detach()).flatten()[:512].float()]
    for name, weight in backbone.unet.named_parameters():
        if "lora_" not in name:
            heads.append(full_tensor(weight.detach()).flatten()[:4].float())
    return torch.cat(heads).cpu()


def require_base(base: Tensor | None, backbone: ControlledUNet) -> None:
    """Refuse a frozen U-Net that is not the one of `base_of`, up to the rounding of half precision.

    Raises:
        UserError: the weights differ.
    """
    ours = base_of(backbone)
    if ours is None or base is None:
        same = ours is base
    else:
        few = ours[: len(base)]  # checkpoints of before hold the first layer's alone
        same = few.shape == base.shape and close(few, base)
    if not same:
        raise UserError(
            "The checkpoint was trained on another base: the frozen U-Net's weights differ from those it knew; "
            "point backbone.path to the base it was trained on."
        )


def close(weights: Tensor, others: Tensor) -> bool:
    """Whether tensors of one shape are equal up to the rounding of half precision, each number for itself."""
    return torch.allclose(weights.float(), others.float(), rtol=2**-7, atol=1e-6)


def same_weights(weights: Tensor | None, others: Tensor | None) -> bool:
    """Whether two tensors of weights are equal up to the rounding of half precision; None equals only None."""
    if weights is None or others is None:
        return weights is others
    return weights.shape == others.shape and bool((weights - others).norm() <= 5e-3 * others.norm())


def marks_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Setting -> the first four numbers of every weight of a frozen part, by which the part is recognised."""
    heads = {name: [weight.detach().flatten()[:4] for weight in part.parameters()] for name, part in parts.items()}
    return {name: torch.cat([torch.zeros(0), *(head.float().cpu() for head in few)]) for name, few in heads.items()}


def require_marked(parts: Mapping[str, Any], marks: Mapping[str, Any]) -> None:
    """Refuse frozen parts whose weights are not those of the marks, up to the rounding of half precision.

    Args:
        parts: by their setting.
        marks: of `marks_of`; a part without marks passes.

    Raises:
        UserError: a part differs.
    """
    for name, ours in marks_of(parts).items():
        theirs = marks.get(name, ours)
        if not same_weights(ours, theirs):
            raise UserError(
                f"The checkpoint was trained with another {name}: its weights differ from those it knew; point "
                f"{name}.path to the one it was trained with."
            )


def _load(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():  # torch would load it as it is
            raise ValueError(f"{damaged} is not what was written")
    return glance(path)


def _others(path: Path) -> list[Path]:
    """The other checkpoints beside one: those from before it, then the best one, each the newest first."""
    others = set(path.parent.glob("*.ckpt")) - {path}
    return sorted(others, key=lambda other: (not other.name.startswith(f"{path.stem}-"), -other.stat().st_mtime))


def _is_sound(path: Path) -> bool:
    with suppress(Exception):
        return bool(_load(path))
    return False


def _reason(error: BaseException) -> str:
    """The first system error among an exception's causes, else the exception's own first line."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error).partition("\n")[0].strip(". ")

"""Checkpoint files: how many are kept, and what a full disk leaves behind."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sspir.errors import UserError
from sspir.training.checkpoint import LAST, AtomicCheckpointIO, load_checkpoint


def content(step: int, numbers: int = 8) -> dict:
    return {"global_step": step, "state_dict": {"weight": torch.full((numbers,), float(step))}}


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The system refuses to let any file grow further, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_are_kept(keep: int, tmp_path: Path) -> None:
    writer = AtomicCheckpointIO(keep)
    for step in (1, 2, 3, 4, 4):  # the last step is saved by two callbacks
        writer.save_checkpoint(content(step), tmp_path / LAST)
        writer.save_checkpoint(content(step), tmp_path / "best.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", LAST, "last-1.ckpt", "last-2.ckpt"} - {
        f"last-{number}.ckpt" for number in range(keep, 3)
    }
    found = [load_checkpoint(tmp_path / name)["global_step"] for name in (LAST, "last-1.ckpt", "last-2.ckpt")[:keep]]
    assert found == [4, 3, 2][:keep]
    AtomicCheckpointIO(keep).save_checkpoint(content(5), tmp_path / LAST)  # another process goes on
    assert load_checkpoint(tmp_path / ("last-1.ckpt" if keep > 1 else LAST))["global_step"] == (4 if keep > 1 else 5)


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path) -> None:
    writer = AtomicCheckpointIO(2)
    for step in (1, 2):
        writer.save_checkpoint(content(step), tmp_path / LAST)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with files_end_at(100_000), pytest.raises(UserError) as told:
        writer.save_checkpoint(content(3, 100_000), tmp_path / LAST)
    assert "(File too large); the one before is untouched. Make room" in str(told.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    writer.save_checkpoint(content(3, 100_000), tmp_path / LAST)
    assert load_checkpoint(tmp_path / "last-1.ckpt")["global_step"] == 2


def test_a_place_that_is_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(
        UserError, match=r"cannot be written \(.*\); there is none yet. Make room or correct the folder"
    ):
        AtomicCheckpointIO().save_checkpoint(content(1), tmp_path / "checkpoints" / LAST)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused_and_a_whole_one_offered(share: float, tmp_path: Path) -> None:
    writer = AtomicCheckpointIO(3)
    for step in (1, 2, 3):
        writer.save_checkpoint(content(step, 1000), tmp_path / LAST)
    for name in (LAST, "last-1.ckpt"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"last.ckpt is truncated or corrupted \(.+\); .*last-2.ckpt is whole: name it"):
        load_checkpoint(tmp_path / LAST)


def test_none_to_keep_is_refused() -> None:
    with pytest.raises(UserError, match="keep_checkpoints=0"):
        AtomicCheckpointIO(0)

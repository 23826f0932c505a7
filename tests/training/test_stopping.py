"""Two processes that are stopped stop after the same step, and go on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from sspir.errors import UserError
from sspir.training.checkpoint import load_checkpoint
from sspir.training.run import find_checkpoint
from sspir.training.stopping import Stopping
from sspir.training.strategy import require_processes
from tests.distances import random_network
from tests.processes import run_ranks
from tests.runs import OVERRIDES, roots, tiny_run

SETTINGS = [
    "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=12",
    "trainer.val_check_interval=4",
    "trainer.limit_val_batches=1", "schedule.num_training_steps=12", "checkpoint_every=1000", "workers=1",
    "data.passes=200",
]  # fmt: skip


def trained(folder: Path, photos: Path, distance: Path) -> list[str]:
    """A training by two processes, one without a photo to measure."""
    return [
        "train", *OVERRIDES, *SETTINGS, f"folder={folder}", *roots(photos), f"+metric.lpips.path={distance}",
    ]  # fmt: skip


def launch(arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """A group of processes: torchrun, two that train, and their workers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "sspir"]
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, *arguments], stdout=file, stderr=file, start_new_session=True, preexec_fn=heed_ctrl_c
        )


def heed_ctrl_c() -> None:
    """What runs behind a shell script is born deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lines(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_two_processes_that_are_stopped_go_on_exactly(number: int, photo_folder: Path, tmp_path: Path) -> None:
    distance = tmp_path / "lpips.safetensors"
    save_file(random_network("lpips").features.state_dict(), distance)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_ranks(2, *trained(whole, photo_folder, distance), log=whole.with_suffix(".log"))

    arguments, log = trained(broken, photo_folder, distance), broken.with_suffix(".log")
    process = launch(arguments, log)
    try:
        while len(lines(broken)) < 6 and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        process.wait(25)  # torchrun kills after 30
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Stopped by" in log.read_text(), log.read_text()
    assert 0 < load_checkpoint(find_checkpoint(broken))["global_step"] < 12
    run_ranks(2, *arguments, log=log)

    ours, theirs = (load_checkpoint(find_checkpoint(folder))["state_dict"] for folder in (broken, whole))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    measured = [[line for line in lines(folder) if "val/lpips" in line] for folder in (broken, whole)]
    assert [line["step"] for line in measured[1]] == [4, 8, 12]
    assert measured[0] == measured[1]


def test_devices_without_processes_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):  # a launcher's, or left by one
        monkeypatch.delenv(name, raising=False)
    two = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="torchrun --standalone --nproc-per-node 2 -m sspir train"):
        require_processes(two)
    monkeypatch.setenv("LOCAL_RANK", "0")
    require_processes(two)
    require_processes(pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False))


@pytest.mark.thorough
def test_a_training_does_not_pass_for_one_that_a_launcher_started_by_what_another_left(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("LOCAL_RANK")  # put back afterwards, whatever comes
    try:
        tiny_run(tmp_path / "one", photo_folder, "trainer.strategy=ddp", "trainer.max_steps=1")
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(UserError, match="2 devices take a process each"):
        tiny_run(tmp_path / "two", photo_folder, "trainer.strategy=ddp", "trainer.devices=2")


def test_a_second_ctrl_c_stops_at_once_and_a_signal_that_is_passed_on_is_no_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    stopping, now = Stopping(trainer), [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    note = trainer._signal_connector._sigterm_notifier_fn
    assert stopping.ask(trainer) == 0
    note(signal.SIGINT, None)
    now[0] += 0.2
    note(signal.SIGINT, None)
    assert stopping.ask(trainer) == signal.SIGINT
    note(signal.SIGTERM, None)
    assert stopping.ask(trainer) == signal.SIGTERM
    assert not stopping.at_once
    now[0] += 2
    with pytest.raises(KeyboardInterrupt):
        note(signal.SIGINT, None)
    assert stopping.at_once

"""A run that is killed again and again ends as one that was not."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sspir.training.checkpoint import load_checkpoint
from sspir.training.run import CHECKPOINTS, find_checkpoint
from tests.processes import Process, start, wait_until
from tests.runs import ONE_STEP, OVERRIDES, roots, tiny_run

CHANGES = [
    "checkpoint_every=1",
    "keep_every=3",
    "trainer.val_check_interval=1000",
    "trainer.accumulate_grad_batches=2",
    "workers=1",
    "data.passes=5",
]


def length(steps: int) -> list[str]:
    return [f"trainer.max_steps={steps}", f"schedule.num_training_steps={steps}"]


def start_training(
    folder: Path, photos: Path, steps: int, *others: str, prepare: Callable[[], None] | None = None
) -> Process:
    places = [f"folder={folder}", *roots(photos)]
    log = folder.parent / f"{folder.name}.log"
    return start("train", *OVERRIDES, *CHANGES, *others, *length(steps), *places, log=log, prepare=prepare)


def steps_made(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def kill_at_random(process: Process, folder: Path, luck: random.Random, how: int) -> int | None:
    """Wait for one more step, then a moment, and kill. Returns the exit status if it ended by itself before."""
    before = steps_made(folder)
    while process.poll() is None and steps_made(folder) <= before:
        time.sleep(0.01)
    time.sleep(luck.uniform(0, 0.5))
    process.send_signal(how)
    return process.wait(60)


def test_sigterm_saves_first_and_says_so(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert kill_at_random(start_training(folder, photo_folder, 100), folder, random.Random(0), signal.SIGTERM) == 143
    assert load_checkpoint(find_checkpoint(folder))["global_step"] >= 1


def lead_group_without_fork() -> None:
    """Python 3.14 forks no more by default; of its forkserver ours, which starts the tests' processes, would be one."""
    os.setpgrp()
    multiprocessing.set_start_method("spawn", force=True)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="on macOS workers die of any SIGTERM")
def test_sigterm_to_every_process_saves_too(photo_folder: Path, tmp_path: Path) -> None:
    """As Slurm, systemd and `timeout` send it: the workers that make the batches get it as well."""
    folder = tmp_path / "run"
    process = start_training(folder, photo_folder, 100, "checkpoint_every=1000", prepare=lead_group_without_fork)
    wait_until(lambda: steps_made(folder) > 5, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143, (tmp_path / "run.log").read_text()
    assert load_checkpoint(find_checkpoint(folder))["global_step"] >= 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kills", "steps", "others"),
    [
        (1, 8, []),
        pytest.param(20, 160, [], marks=pytest.mark.slow),
        pytest.param(10, 80, ONE_STEP, marks=pytest.mark.slow, id="one_step"),
    ],
)
def test_killed_at_random_moments_ends_as_unbroken(
    kills: int, steps: int, others: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    luck = random.Random(kills)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for _ in range(kills):
        assert (
            kill_at_random(start_training(broken, photo_folder, steps, *others), broken, luck, signal.SIGKILL)
            == -signal.SIGKILL
        )
    for folder in (broken, whole):
        tiny_run(folder, photo_folder, *CHANGES, *others, *length(steps))
    ours, theirs = (load_checkpoint(find_checkpoint(folder)) for folder in (broken, whole))
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items()), part
    for mine, other in zip(ours["optimizer_states"], theirs["optimizer_states"], strict=True):
        for index, state in mine["state"].items():
            assert all(torch.equal(value, other["state"][index][key]) for key, value in state.items())
    assert bool(ours["objective"]) == bool(others)
    torch.testing.assert_close(ours["objective"], theirs["objective"], rtol=0, atol=0)
    milestones = [f"step-{step}" for step in range(3, steps + 1, 3)]
    for folder in (broken, whole):
        assert {path.stem for path in (folder / CHECKPOINTS).glob("step*")} == set(milestones)
    for name in milestones:
        ours, theirs = (load_checkpoint(find_checkpoint(folder, name)) for folder in (broken, whole))
        assert ours["global_step"] == int(name.removeprefix("step-"))
        assert all(torch.equal(value, theirs["ema"][key]) for key, value in ours["ema"].items())
        assert ours["ema"].keys() == ours["state_dict"].keys()
    pace = {"images_per_second", "memory_gib"}  # of the machine
    curves = [
        [{key: value for key, value in json.loads(line).items() if key not in pace} for line in path.open()]
        for path in (broken / "metrics.jsonl", whole / "metrics.jsonl")
    ]
    assert curves[0] == curves[1]

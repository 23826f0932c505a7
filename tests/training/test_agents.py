"""The sweep file for W&B's agents, and the command line in it as an agent starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import sspir
from sspir.__main__ import main
from tests.runs import OVERRIDES, roots

VARIED = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "ablation=choice(none,no_rgb_loss)"]


def written(photos: Path, *more: str) -> dict[str, Any]:
    places = roots(photos)
    settings = [text for text in OVERRIDES if text != "logger=jsonl"]
    short = ["+trainer.limit_train_batches=2"]
    assert main(["sweep", "--wandb", *more, *settings, *short, *places, *VARIED]) == 0
    return dict(yaml.safe_load(Path("sweep.yaml").read_text(encoding="utf-8")))


def test_the_file_says_what_varies_and_what_is_good(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    made = written(photo_folder, "--method", "random")
    assert made["method"] == "random"
    assert made["project"] == "sspir"
    assert made["metric"] == {"name": "val/psnr_y", "goal": "maximize"}
    assert made["parameters"] == {
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "ablation": {"values": ["none", "no_rgb_loss"]},
    }
    assert main(["sweep", "--wandb", "experiments=tiny", "logger=jsonl", *VARIED]) == 2
    assert "take logger=wandb" in capsys.readouterr().err


@pytest.mark.slow
def test_an_agents_command_line_trains_a_run_in_a_folder_of_its_own(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = written(photo_folder)
    arguments = {"optimizer.lr": {"value": 0.00123}, "ablation": {"value": "none"}}
    name = "first"  # the folder has it: W&B may draw twice alike
    command = agents_command(made, arguments)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("WANDB")},  # of other tests' runs
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(sspir.__file__).parents[1]),
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "sweep",
        "WANDB_RUN_ID": name,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny" / f"none-lr-0.00123-s0-{name}"
    assert json.loads((folder / "summary.json").read_text())["step"] == 4
    assert OmegaConf.load(folder / "config.yaml").optimizer.lr == 0.00123
    assert (folder / "wandb.id").read_text() == name
    assert list(folder.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))


def agents_command(sweep: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    """What W&B's agent starts, by its own functions."""
    values = create_sweep_command_args({"args": arguments})
    values |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    parts = create_sweep_command(list(sweep["command"]))
    return [
        text
        for part in parts
        for text in (values[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part])
    ]

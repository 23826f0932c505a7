"""What W&B keeps of a training: read back from its own run files, record by record."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sspir.errors import UserError
from sspir.files import sha256
from sspir.training.history import read_history
from sspir.training.loggers import wandb_logger
from sspir.training.losses import RestorationLoss
from sspir.training.saving import SaveAtEnd
from tests.runs import OVERRIDES, tiny_run
from tests.wandb_file import Told, told


def ended(folder: Path, count: int = 1, seconds: float = 30) -> list[Told]:
    """The W&B runs below a folder, once W&B's own process has written the end of each."""
    deadline = time.monotonic() + seconds
    while len(runs := [run for run in told(folder) if run.status is not None]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return runs


def alerts(run: Told) -> list[tuple[str, str]]:
    return [(alert.title.partition(":")[0], alert.level) for alert in run.alerts]


def files(artifact: Any) -> dict[str, Path]:
    return {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("wandb") / "run"
    tiny_run(
        folder, photo_folder, "logger=wandb", "logger.wandb.artifacts=checkpoints", "+callbacks.panels.table_size=20"
    )
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Told:
    (run,) = ended(folder)
    return run


def test_a_run_has_its_names_its_configuration_and_its_code(run: Told) -> None:
    assert (run.run.display_name, run.run.run_group, run.run.job_type) == ("tiny-none-s0", "tiny", "train")
    assert (list(run.run.tags), run.status) == (["none"], 0)
    assert run.config["module"]["structure_steps"] == 2
    assert run.config["code"].keys() == {"commit", "uncommitted", "patch_bytes"}
    assert run.run.git.commit == run.config["code"]["commit"]
    assert ("code.patch" in run.files) == (0 < run.config["code"]["patch_bytes"] <= 1 << 20)
    assert run.stats  # of the machine


def test_history_is_our_own_record(run: Told, folder: Path) -> None:
    ours = {(line["step"], name): line[name] for line in read_history(folder / "metrics.jsonl") for name in line}
    theirs = {(row["step"], name): row[name] for row in run.history for name in row}
    assert all(theirs[key] == pytest.approx(value) for key, value in ours.items())
    assert [theirs[step, "skipped_steps"] for step in (1, 2, 3, 4)] == [0] * 4
    best = {"val/psnr_y": "max", "val/ssim_y": "max"}
    for name, end in best.items():
        assert run.summary[name][end] == pytest.approx(max(ours[step, name] for step in (2, 4)))


def test_every_validation_has_a_table_with_pictures_and_their_values(run: Told) -> None:
    tables = [artifact for artifact in run.artifacts if artifact.type == "run_table"]
    rows = [row for row in run.history if row.get("pictures/_type") == "table-file"]
    assert [row["step"] for row in rows] == [2, 4]
    for artifact, step in zip(tables, (2, 4), strict=True):
        table = json.loads(files(artifact)["pictures.table.json"].read_text())
        cells = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert [(row["step"], row["image"]) for row in cells] == [(step, "0"), (step, "1")]
        (mean,) = [row["val/psnr_y"] for row in run.history if row["step"] == step and "val/psnr_y" in row]
        assert sum(row["psnr_y"] for row in cells) / 2 == pytest.approx(mean, abs=1e-4)
        for row in cells:
            for column in ("bicubic", "processor", "restored", "truth"):
                with Image.open(files(artifact)[row[column]["path"]]) as picture:
                    assert picture.size == (20, 20)


def test_the_best_and_the_last_checkpoint_are_run_folders(
    run: Told, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # from where they are synchronised
    models = [artifact for artifact in run.artifacts if artifact.type == "model"]
    assert [(model.name, set(model.aliases)) for model in models] == [
        ("tiny-none-s0", {"best", "latest"}),
        ("tiny-none-s0", {"last", "latest"}),
    ]
    for model, name in zip(models, ("best", "last"), strict=True):
        parts = files(model)
        assert {"config.yaml", "environment.json", "SHA256SUMS", f"checkpoints/{name}.ckpt"} <= parts.keys()
        assert parts[f"checkpoints/{name}.ckpt"].samefile(folder / "checkpoints" / f"{name}.ckpt")  # takes no room
        sums = dict(line.split("  ")[::-1] for line in parts["SHA256SUMS"].read_text().splitlines())
        assert sums == {part: sha256(path) for part, path in parts.items() if part != "SHA256SUMS"}
    assert alerts(run) == [("finished", "INFO")]
    assert f"val/psnr_y is {json.loads((folder / 'summary.json').read_text())['val/psnr_y']:.4g}" in run.alerts[0].text


def test_by_default_a_manifest_tells_of_the_checkpoints(photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path, photo_folder, "logger=wandb", "trainer.max_steps=2", "callbacks.panels=null")
    (run,) = ended(tmp_path)
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type) == ("tiny-none-s0-manifest", "manifest")
    parts = files(artifact)
    assert {"config.yaml", "environment.json", "checkpoints.json"} <= parts.keys()
    assert not any(path.endswith(".ckpt") for path in parts)
    assert json.loads(parts["checkpoints.json"].read_text()) == {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in (tmp_path / "checkpoints").glob("*.ckpt")
    }


def test_what_is_no_choice_of_artifacts_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"artifacts=all is none of checkpoints, manifest, none"):
        wandb_logger(str(tmp_path), "sspir", "group", "name", ["tag"], artifacts="all")


@pytest.mark.thorough
def test_broken_steps_alert_once_a_run_and_are_counted_on(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structure, made, broken = RestorationLoss.structure, iter(range(100)), {2, 3, 4, 5}

    def sometimes(self: RestorationLoss, images: list, hq: torch.Tensor) -> dict[str, torch.Tensor]:
        scale = float("nan") if next(made) in broken else 1.0
        return {name: value * scale for name, value in structure(self, images, hq).items()}

    monkeypatch.setattr(RestorationLoss, "structure", sometimes)
    changes = ["logger=wandb", "logger.wandb.artifacts=none", "trainer.max_steps=6", "callbacks.panels=null"]
    changes += ["schedule.num_training_steps=6", "module.structure_steps=6", "checkpoint_every=1"]
    with pytest.raises(UserError, match="3 steps in a row"):
        tiny_run(tmp_path, photo_folder, *changes)
    assert tiny_run(tmp_path, photo_folder, *changes)["skipped_steps"] == 3  # two were saved, and one more
    first, second = ended(tmp_path, 2)
    assert (alerts(first), first.status) == ([("broken step", "WARN"), ("failed", "ERROR")], 1)
    assert (alerts(second), second.status) == ([("finished", "INFO")], 0)
    assert "Step 2 is left out: " in first.alerts[0].text
    assert "3 steps in a row" in first.alerts[1].text


@pytest.mark.thorough
def test_a_run_that_is_stopped_says_so_and_the_next_gets_its_own(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: SaveAtEnd, trainer: pl.Trainer, *_: Any) -> None:
        raise SIGTERMException

    class TrialPruned(Exception):  # noqa: N818  # as Optuna calls it
        pass

    def prune(self: SaveAtEnd, trainer: pl.Trainer, *_: Any) -> None:
        raise TrialPruned

    with monkeypatch.context() as stopping:
        stopping.setattr(SaveAtEnd, "on_train_batch_start", stop)
        with pytest.raises(SystemExit):
            tiny_run(tmp_path / "a", photo_folder, "logger=wandb")
    tiny_run(tmp_path / "b", photo_folder, "logger=wandb", "trainer.max_steps=1", "seed=1")
    with monkeypatch.context() as pruning:
        pruning.setattr(SaveAtEnd, "on_train_batch_start", prune)
        with pytest.raises(TrialPruned):
            tiny_run(tmp_path / "c", photo_folder, "logger=wandb", "seed=2")
    (stopped,), (other,), (pruned,) = ended(tmp_path / "a"), ended(tmp_path / "b"), ended(tmp_path / "c")
    assert alerts(pruned) == [("pruned", "INFO")]
    assert (alerts(stopped), stopped.status, stopped.artifacts) == ([("stopped", "WARN")], 1, [])
    assert (other.run.display_name, alerts(other)) == ("tiny-none-s1", [("finished", "INFO")])


WITHOUT_SERVICE = """
import os, sys, time
from pathlib import Path
from sspir.__main__ import main
from sspir.training.saving import SaveAtEnd
from sspir.training.loggers import StepLogger

def kill(*_):
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    for pid in children:
        if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(int(pid), 9)
            time.sleep(0.5)

def begin(self, *arguments, _begin=StepLogger.__init__):
    kill()
    _begin(self, *arguments)

if sys.argv[1] == "begins":
    StepLogger.__init__ = begin
else:
    SaveAtEnd.on_train_batch_start = kill
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("moment", [pytest.param("begins", marks=pytest.mark.slow), "trains"])
def test_a_training_outlives_w_and_b_s_own_process(moment: str, photo_folder: Path, tmp_path: Path) -> None:
    photos = [f"dataset.{each}.root={photo_folder}" for each in ("train", "validation.photos")]
    overrides = [*OVERRIDES, *photos, f"folder={tmp_path}/run", "logger=wandb", "trainer.max_steps=2"]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("WANDB_")}  # a process of its own
    command = [sys.executable, "-c", WITHOUT_SERVICE, moment, "train", *overrides]
    environment = {**kept, "WANDB_MODE": "offline"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:5000]
    said = {"begins": ["is not reachable", "does not run here"], "trains": ["misses a part of this run"]}
    warnings = [line for line in done.stderr.splitlines() if "UserWarning: W&B" in line]
    assert len(warnings) == len(said[moment])
    assert all(words in line for words, line in zip(said[moment], warnings, strict=True))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 2

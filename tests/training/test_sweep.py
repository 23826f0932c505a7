"""Sweeps: in order, in processes, on a cluster's local executor; the finished is skipped, the failed is retried."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from sspir.__main__ import main
from sspir.config.space import split_space
from sspir.config.sweep import sharing_out, with_swept
from sspir.training.checkpoint import load_checkpoint
from sspir.training.run import alone_in, find_checkpoint
from tests.needs import needs
from tests.runs import OVERRIDES, roots


def swept(photos: Path, *overrides: str) -> list[str]:
    places = roots(photos)
    return ["train", "--multirun", *OVERRIDES, *places, "trainer.max_steps=2", *overrides]


def sweep(root: Path, photos: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sspir", *swept(photos, *overrides)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=400)


def finished(root: Path) -> dict[str, int]:
    """Run -> when its summary was written."""
    found = (root / "runs").rglob("summary.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


@pytest.mark.thorough
def test_finished_runs_are_skipped_and_what_a_model_refuses_is_passed_over(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(swept(photo_folder, "ablation=no_controlnet,none")) == 0
    told = "residual needs a Processor with a front that predicts a full-size image, and a ControlNet"
    assert re.search(rf"Passed over: .*ablation=no_controlnet.*{told}", capsys.readouterr().out)
    before = finished(tmp_path)
    assert set(before) == {"none-s0"}
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(rf"no_controlnet-s0</th><td>not applicable</td><td>[^<]*{told}", page)
    assert main(swept(photo_folder, "ablation=no_rgb_loss,none,no_frequency_loss")) == 0
    after = finished(tmp_path)
    assert set(after) == {"no_rgb_loss-s0", "none-s0", "no_frequency_loss-s0"}
    assert all(after[name] == when for name, when in before.items())
    summary = json.loads((tmp_path / "runs" / "tiny" / "none-s0" / "summary.json").read_text())
    assert summary["step"] == 2


@pytest.mark.thorough
def test_what_a_sweep_varies_names_its_runs(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = roots(photo_folder)
    swept = [
        "optimizer.lr=1e-3,1e-4",
        "dataset.train.crop.size=32",
        "trainer.max_steps=1",
        "trainer.limit_val_batches=0",
    ]
    assert main(["train", "--multirun", *OVERRIDES, *places, *swept]) == 0
    assert set(finished(tmp_path)) == {"none-lr-0.001-s0", "none-lr-0.0001-s0"}
    recorded = OmegaConf.load(tmp_path / "runs" / "tiny" / "none-lr-0.001-s0" / "config.yaml")
    assert recorded.variant == "none-lr-0.001"
    assert recorded.folder == "runs/tiny/none-lr-0.001-s0"
    assert recorded.module.optimizer.lr == 0.001


@pytest.mark.thorough
def test_ablations_combine_and_name_the_run_in_any_order(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = roots(photo_folder)
    settings = [*OVERRIDES, *places, "trainer.max_steps=1", "trainer.limit_val_batches=0"]
    assert main(["train", "--multirun", *settings, "ablation=[no_pixel_attention,no_explicit],no_rgb_loss"]) == 0
    before = finished(tmp_path)
    assert set(before) == {"no_explicit+no_pixel_attention-s0", "no_rgb_loss-s0"}
    recorded = OmegaConf.load(tmp_path / "runs" / "tiny" / "no_explicit+no_pixel_attention-s0" / "config.yaml")
    assert recorded.variant == "no_explicit+no_pixel_attention"
    assert recorded.module.captioner._target_.endswith("NoCaption")
    assert recorded.module.backbone.pixel_attention == []
    assert main(["train", *settings, "ablation=[no_explicit,no_pixel_attention]"]) == 0
    assert finished(tmp_path) == before  # the same run, which is finished


def test_ablations_and_seeds_have_their_names_and_order_does_not_matter() -> None:
    named = ["--multirun", "experiments=tiny", "ablation=glob(*)", "seed=0,1"]
    assert with_swept(named) == named
    more = ["sampler=ddim,tiny", "+optimizer.eps=1e-8,1e-6", "batch_size=8"]
    assert (
        with_swept([*named, *more])[-1] == with_swept([*reversed(more), *named])[-1] == "sweep=[optimizer.eps,sampler]"
    )
    assert with_swept(more) == more  # no multirun


def made_folders(root: Path, *overrides: str) -> set[str]:
    """Names of the run folders of a multirun's jobs, which end as there are no photos."""
    places = ["dataset.train.root=missing", "dataset.validation.photos.root=missing", "logger=jsonl"]
    assert main(["train", "--multirun", *places, *overrides]) == 2
    return {path.name for path in (root / "runs").glob("*/*/")}


@pytest.mark.thorough
def test_choices_of_one_group_in_a_package_name_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    varied = ["discriminator@objective.adversary.network=patch,unet", "objective.terms.lpips.weight=0"]
    made = made_folders(tmp_path, "experiments=tiny_one_step", *varied)
    assert made == {"none-network-patch-s0", "none-network-unet-s0"}
    assert split_space(["discriminator@a=patch,unet", "discriminator@b=patch"])[0] == ["discriminator@b=patch"]
    out = "out=x/${objective.adversary.network._target_}"  # which says the package alone
    assert sharing_out(["--multirun", varied[0], out]) == []


@pytest.mark.parametrize(
    "params", ["hydra.sweeper.params={batch_size: '1,2'}", "hydra.sweeper.params.batch_size='1,2'"]
)
def test_what_varies_is_not_written_as_hydras_own_setting(params: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--multirun", "experiments=tiny", params]) == 2
    assert "vary a setting by KEY=A,B, or write hydra.sweeper.params in an experiment's" in capsys.readouterr().err


@pytest.mark.thorough
def test_what_an_experiments_file_varies_names_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [tiny]\nname: own\nhydra: {sweeper: {params: {optimizer.lr: '1e-3,1e-4'}}}\n"
    (tmp_path / "mine" / "experiments" / "own.yaml").write_text(text)
    monkeypatch.setenv("SSPIR_PATH", str(tmp_path / "mine"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = ["experiments=own", "trainer.max_steps=1"]
    assert made_folders(tmp_path, *own) == {"none-lr-0.001-s0", "none-lr-0.0001-s0"}
    assert with_swept(["-m", *own, "optimizer.lr=1e-5"])[-1] == "optimizer.lr=1e-5"  # which counts
    assert main(["sweep", "--wandb", *own]) == 0
    made = yaml.safe_load((tmp_path / "sweep.yaml").read_text(encoding="utf-8"))
    assert made["parameters"] == {"optimizer.lr": {"values": ["0.001", "0.0001"]}}
    assert "sweep=[optimizer.lr]" in made["command"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package", "options"),
    [
        ("joblib", "hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
        ("submitit_local", "hydra_submitit_launcher", ["hydra.launcher.timeout_min=5"]),
        ("ray", "hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=1"]),
    ],
)
def test_launchers_of_the_ecosystem_run_sweeps(
    launcher: str, package: str, options: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    needs(f"hydra_plugins.{package}", {"joblib": "joblib", "ray": "ray"}.get(launcher, "slurm"))
    done = sweep(tmp_path, photo_folder, f"hydra/launcher={launcher}", *options, "seed=0,1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(finished(tmp_path)) == {"none-s0", "none-s1"}


@pytest.mark.slow
def test_a_sigterm_ends_all_of_a_parallel_sweep_once_it_has_saved(photo_folder: Path, tmp_path: Path) -> None:
    needs("hydra_plugins.hydra_joblib_launcher", "joblib")
    places = roots(photo_folder)
    length = ["trainer.max_steps=100000", "checkpoint_every=100000", "trainer.val_check_interval=100000"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sspir", "train", "--multirun", *OVERRIDES, *places, *length, *launcher],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    runs = [tmp_path / "runs" / "tiny" / f"none-s{seed}" for seed in range(3)]
    while process.poll() is None and not all((run / "metrics.jsonl").is_file() for run in runs[:2]):
        time.sleep(0.1)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output.decode()[-3000:]
    for run in runs[:2]:
        assert load_checkpoint(find_checkpoint(run))["global_step"] >= 1
        with alone_in(run):  # nobody trains there any more
            pass
    assert not runs[2].exists() or not (runs[2] / "metrics.jsonl").exists()

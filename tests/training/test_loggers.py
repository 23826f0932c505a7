import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

import sspir.training
from sspir.training.fit import train
from sspir.training.history import HEADER
from sspir.training.loggers import JsonLinesLogger, wandb_logger
from sspir.training.run import code_state, environment, run_id
from tests.runs import tiny_config, tiny_run


def test_lines_are_complete_and_appended(tmp_path: Path) -> None:
    JsonLinesLogger(str(tmp_path)).log_metrics({"loss/total": 1.5}, step=3)
    JsonLinesLogger(str(tmp_path)).log_metrics({"val/psnr_y": 30.0}, step=4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        HEADER,
        {"step": 4, "loss/total": 1.5},
        {"step": 5, "val/psnr_y": 30.0},
    ]


def test_a_run_without_loggers_trains(photo_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", photo_folder, "trainer.max_steps=2", "logger.jsonl=null")
    del config.logger.jsonl  # as '~logger' leaves it
    assert "val/psnr_y" in train(config)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_wandb_is_offline_without_an_account_and_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    ids = []
    for _ in range(2):
        logger = wandb_logger(str(tmp_path), "sspir", "group", "name", ["tag"])
        assert logger.experiment.offline
        ids.append(logger.experiment.id)
        logger.experiment.finish()
    assert ids[0] == ids[1]


def test_an_agents_id_wins_over_the_folders_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = run_id(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert run_id(tmp_path) == own  # of a shell in which another run goes on
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert run_id(tmp_path) == "given"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert run_id(tmp_path) == "given"


def test_a_run_logs_to_wandb_with_its_configuration_and_pace(photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", photo_folder, "logger=wandb", "trainer.max_steps=2")
    wanted = [b"loss/total", b"val/psnr_y", b"bicubic/ssim_y", b"panels/0", b"structure_steps"]
    wanted += [b"images_per_second", b"memory_gib", b"lr-AdamW"]
    folder = tmp_path / "run" / "wandb"
    for _ in range(100):  # W&B's own process writes
        record = b"".join(path.read_bytes() for path in folder.rglob("*.wandb"))
        if all(name in record for name in wanted):
            break
        time.sleep(0.1)
    assert [name for name in wanted if name not in record] == []
    assert list(folder.rglob("*.png"))


def test_pace_and_rate_stand_in_our_own_record(photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=2", "trainer.accumulate_grad_batches=2")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("images_per_second", "memory_gib", "lr-AdamW"):
        assert {line["step"] for line in lines if line.get(name, 0) >= 0 and name in line} == {1, 2}, name
    assert all(0 < line["images_per_second"] < 1e5 for line in lines if "images_per_second" in line)


def test_other_ranks_open_no_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(str(tmp_path), "sspir", "group", "name", ["tag"])
    logger.log_metrics({"loss/total": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_the_code_in_folders_of_ones_own_is_told_by_its_commit_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for name in ("mine", "new/mine"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "code.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", "mine")
    git("commit", "-qm", "mine")
    monkeypatch.chdir(tmp_path)
    outside = str(tmp_path.parent)  # of any repository
    monkeypatch.setenv("SSPIR_PATH", os.pathsep.join(("mine", "new/mine", outside)))
    commit = git("rev-parse", "HEAD")
    new, unknown = {"code": "", "uncommitted": True}, {"code": "", "uncommitted": False}
    committed = {"code": commit, "uncommitted": False}
    assert environment()["own_code"] == {"mine": committed, "new/mine": new, outside: unknown}
    (tmp_path / "mine" / "code.py").write_text("secret = 2\n")
    assert environment()["own_code"]["mine"] == {"code": commit, "uncommitted": True}
    assert commit not in str(code_state())  # which is sent to W&B
    monkeypatch.delenv("SSPIR_PATH")
    assert environment()["own_code"] == {}  # a run that goes on without keeps none of before


@pytest.mark.thorough
@pytest.mark.parametrize("tracked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_package_in_somebody_s_repository_records_none_of_it(tracked: bool, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    package = Path(sspir.training.__file__).parents[1]
    shutil.copytree(package, tmp_path / "v" / "sspir", ignore=shutil.ignore_patterns("shipped", "__pycache__"))
    (tmp_path / ".gitignore").write_text("" if tracked else "v\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "mine")
    (tmp_path / ".gitignore").write_text("v\n# secret\n")
    asked = "from sspir.training.run import code_root, code_state; print(code_state(), code_root())"
    path = {**os.environ, "PYTHONPATH": str(tmp_path / "v")}
    told = subprocess.run([sys.executable, "-c", asked], env=path, cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == "({'commit': '', 'uncommitted': False, 'patch_bytes': 0}, b'') None\n", told.stderr

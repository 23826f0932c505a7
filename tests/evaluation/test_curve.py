"""All checkpoints of a run: a curve over steps, the best step by each metric, and what is broken on the way."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sspir.__main__ import main
from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.evaluation.checkpoints import checkpoints, evaluate_all
from sspir.evaluation.curve import best_steps, sentences
from tests.report.written import report, table
from tests.runs import tiny_run

GIVEN = ["metric=fast", "limit=1", "checkpoint=all"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("curve") / "run"
    tiny_run(folder, photo_folder, "keep_every=2", "trainer.max_steps=3", "trainer.val_check_interval=3")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSPIR_DATA", str(tmp_path))
    for name in ("set5", "set14"):
        shutil.copytree(photo_folder / "val", tmp_path / "benchmarks" / name / "HQ")
    return Path(shutil.copytree(trained, tmp_path / "run"))


def curve_of(run: Path, benchmark: str) -> dict[str, Any]:
    return dict(json.loads((run / "evaluation" / benchmark / "all-limit1" / "curve.json").read_text()))


def times(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("evaluation/**/restored/*.png")}


@pytest.mark.thorough
def test_all_checkpoints_give_curves_and_one_set_chooses_for_the_other(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "run", "benchmark=set5,set14", *GIVEN, "wandb=null"]) == 0
    chosen, reported = (curve_of(run, name) for name in ("set5", "set14"))
    for curve in (chosen, reported):
        assert [(point["step"], point["checkpoint"]) for point in curve["points"]] == [(2, "step-2"), (3, "last")]
        for point in curve["points"]:
            alone = run / "evaluation" / curve["benchmark"] / f"{point['checkpoint']}-limit1" / "summary.json"
            assert json.loads(alone.read_text())["methods"] == point["methods"]
        assert curve["choose_on"] == "set5"
        assert curve["chosen"] == best_steps(chosen, (2, 3))
    before = times(run)
    assert len(before) == 4
    monkeypatch.chdir(run)
    assert main(["evaluate", "run=../run", "benchmark=set14", "choose_on=set5", *GIVEN, "wandb=null"]) == 0
    assert curve_of(run, "set14")["chosen"] == reported["chosen"]
    assert times(run) == before
    told = sentences(reported)
    assert "chosen on set5, with what they have on set14" in told[0]
    assert "report them on another benchmark" in sentences(chosen)[1]
    page = report(tmp_path / "page.html", run)
    assert all(sentence in page for curve in (chosen, reported) for sentence in sentences(curve))
    assert "holds no results" not in page
    rows = table(page, "Checkpoints on set14")
    assert rows[0][:2] == ["run", "step"]
    assert [row[1] for row in rows[1:]] == ["2", "3"]
    assert "on set5, step-2" not in page  # the curve has it
    assert page.count("<figcaption>psnr_y on set14") == 1


def told_wandb(run: Path, words: bytes, seconds: float = 30) -> bool:
    """Whether W&B's offline files hold some words; its service writes them when it comes to it."""
    deadline = time.monotonic() + seconds
    while not (found := any(words in path.read_bytes() for path in run.rglob("*.wandb"))):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return found


@pytest.mark.thorough
def test_a_broken_checkpoint_is_said_and_the_rest_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    milestone = run / "checkpoints" / "step-2.ckpt"
    milestone.write_bytes(milestone.read_bytes()[:-3000])
    assert main(["evaluate", f"run={run}", "benchmark=set5", *GIVEN]) == 2
    assert "step-2.ckpt is truncated or corrupted" in capsys.readouterr().err
    curve = curve_of(run, "set5")
    assert [point["step"] for point in curve["points"]] == [3]
    assert "step-2.ckpt" in curve["problems"][0]
    assert curve["chosen"]
    assert told_wandb(run, b"restored/psnr_y")
    milestone.unlink()
    before = times(run)
    config = compose_config("evaluate", [f"run={run}", "benchmark=set5", *GIVEN, "wandb=null", "choose_on=set14"])
    with pytest.raises(UserError, match=r"choose_on=set14: .* give benchmark=set14,set5"):
        evaluate_all(config)
    assert [point["step"] for point in curve_of(run, "set5")["points"]] == [3]  # no milestones: the last one
    assert times(run) == before


def test_a_run_without_checkpoints_and_what_is_no_run_are_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="takes a run folder"):
        evaluate_all(compose_config("evaluate", [f"run={tmp_path}", "benchmark=set5", *GIVEN, "wandb=null"]))
    assert main(["evaluate", f"run={run}", "benchmark=set5", *GIVEN, "wandb=null"]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err
    page = report(tmp_path / "page.html", run)
    assert "set5/all-limit1 holds no results: its evaluation failed: The run" in page


def test_milestones_stand_in_the_order_of_their_steps(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("step-10", "step-9", "step-x", "best", "last-1", "last"):
        torch.save({}, tmp_path / "checkpoints" / f"{name}.ckpt")
    assert checkpoints(tmp_path) == ["step-9", "step-10", "last", "best"]


def test_the_best_step_is_at_the_good_end_and_the_first_of_equals_and_a_ratio_has_none() -> None:
    facts = {"higher_is_better": True, "ideal": None}
    metrics = {"up": facts, "down": {**facts, "higher_is_better": False}, "ratio": {**facts, "ideal": 1.0}}
    values = {1: (1.0, 3.0, 2.0), 2: (4.0, 1.0, 0.9), 3: (4.0, 2.0, 1.2)}
    points = [
        {
            "step": step,
            "methods": {"restored": {name: {"mean": mean} for name, mean in zip(metrics, means, strict=True)}},
        }
        for step, means in values.items()
    ]
    curve = {"metrics": metrics, "points": points}
    assert best_steps(curve, (1, 2, 3)) == {"up": 2, "down": 2}
    assert best_steps(curve, (1, 3)) == {"up": 3, "down": 3}

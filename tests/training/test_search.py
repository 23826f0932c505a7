"""Searches: Optuna's study over real trainings; what is finished, pruned, failed, killed, and started again."""

import json
import math
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from sspir.__main__ import main
from sspir.config.compose import compose_config, config_root
from sspir.config.space import split_space
from sspir.errors import UserError
from sspir.training.checkpoint import load_checkpoint
from sspir.training.history import HEADER, read_history
from sspir.training.run import find_checkpoint
from sspir.training.search import best_values, run
from tests.needs import needs
from tests.processes import start, wait_until
from tests.runs import OVERRIDES, roots, tiny_run

SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=1", "sampler.steps=1", "data.passes=5"]
ALL = ["hydra.sweeper.sampler._target_=optuna.samplers.BruteForceSampler", "~hydra.sweeper.sampler.constant_liar"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    needs("optuna", "search")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(photos: Path, *overrides: str) -> list[str]:
    """Overrides, of which the last of a key counts."""
    places = roots(photos)
    of_keys = {text.partition("=")[0]: text for text in [*OVERRIDES, *SHORT, *places, *overrides]}
    return list(of_keys.values())


def sweep(photos: Path, *overrides: str) -> int:
    return main(["sweep", *settings(photos, *overrides)])


def trials(folder: str | Path = "runs/tiny/sweep-search", study: str = "search") -> list[Any]:
    from sspir.training.study import load_study

    return load_study(Path(folder), study).trials


def states(found: list[Any]) -> list[str]:
    return [trial.state.name for trial in found]


def report(*folders: str) -> str:
    assert main(["report", *folders, "--out", "report.html"]) == 0
    return Path("report.html").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_nothing_is_trained_twice_and_studies_share_runs_and_a_folder(photo_folder: Path, home: Path) -> None:
    space, count = "ablation=choice(none,no_rgb_loss)", "hydra.sweeper.n_trials=4"
    assert sweep(photo_folder, space, count) == 0
    found = trials()
    assert states(found) == ["COMPLETE"] * 4
    runs = {path.parent: path.stat().st_mtime_ns for path in Path("runs/tiny").rglob("summary.json")}
    assert {folder.name for folder in runs} == {"none-s0", "no_rgb_loss-s0"}
    for trial in found:
        folder = Path("runs/tiny") / f"{trial.params['ablation']}-s0"
        assert trial.values == best_values(folder, ["psnr_y"], "max")
        assert list(trial.intermediate_values) in ([1, 2], [])  # none where it is the same as an earlier one
        assert Path("runs/tiny/sweep-search", trial.user_attrs["folder"]).resolve() == folder.resolve()
    assert sweep(photo_folder, space, count) == 0  # which has been done
    assert len(trials()) == 4
    # Another study in the same folder, which finds the runs finished
    assert (
        sweep(photo_folder, space, count, "hydra.sweeper.study=b", "hydra.sweeper.folder=runs/tiny/sweep-search") == 0
    )
    assert [trial.values for trial in trials(study="b")] == [trial.values for trial in found]
    assert runs == {path.parent: path.stat().st_mtime_ns for path in Path("runs/tiny").rglob("summary.json")}
    (home / "elsewhere").mkdir()
    os.chdir(home / "elsewhere")
    page = report("../runs")
    assert "Search: search in tiny/sweep-search" in page
    assert "Search: b in tiny/sweep-search" in page
    assert page.count('<a href="#run-none-s0">') >= 2
    assert '<tr id="run-none-s0">' in page


@pytest.mark.slow
def test_a_pruned_run_goes_on_as_if_it_had_not_been(
    photo_folder: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    pruner = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.lower=1000"]
    pruner += ["~hydra.sweeper.pruner.n_startup_trials"]
    length = ["trainer.max_steps=3", "optimizer.lr=interval(1e-4,1e-3)", "hydra.sweeper.n_trials=1"]
    assert sweep(photo_folder, *length, *pruner) == 0
    (trial,) = trials()
    assert states([trial]) == ["PRUNED"]
    assert list(trial.intermediate_values) == [1]
    assert "at step 1, where ThresholdPruner ends it" in trial.user_attrs["reason"]
    folder = Path("runs/tiny/sweep-search", trial.user_attrs["folder"])
    assert load_checkpoint(find_checkpoint(folder))["global_step"] == 1
    assert not (folder / "summary.json").exists()
    assert "pruned" in report("runs")
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "To go on with it: sspir " in line]
    assert main(shlex.split(told.partition("To go on with it: sspir ")[2])) == 0
    rate = f"optimizer.lr={trial.params['optimizer.lr']!r}"
    whole = home / "whole"
    tiny_run(whole, photo_folder, *SHORT[1:], "trainer.max_steps=3", rate)
    ours, theirs = (load_checkpoint(find_checkpoint(place)) for place in (folder, whole))
    assert ours["global_step"] == 3
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items()), part


@pytest.mark.thorough
def test_what_a_model_refuses_and_what_cannot_be_composed_fails_and_the_rest_goes_on(
    photo_folder: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    varied = "ablation=choice(no_controlnet,nonsense,none)"
    assert sweep(photo_folder, varied, *ALL, "hydra.sweeper.n_trials=3") == 2
    assert "Trial" in capsys.readouterr().err
    found = {trial.params["ablation"]: trial for trial in trials()}
    assert states([found[name] for name in ("no_controlnet", "nonsense", "none")]) == ["FAIL", "FAIL", "COMPLETE"]
    assert "residual needs a Processor with a front" in found["no_controlnet"].user_attrs["reason"]
    assert "nonsense" in found["nonsense"].user_attrs["reason"]
    page = report("runs/tiny")
    assert "residual needs a Processor with a front" in page
    assert "1 complete" in page


@pytest.mark.thorough
def test_a_run_that_comes_to_nan_is_pruned(photo_folder: Path, home: Path) -> None:
    varied = ["optimizer.lr=choice(1e30,1e-3)", "hydra.sweeper.n_trials=2", *ALL]
    length = ["trainer.max_steps=3", "trainer.val_check_interval=3", "callbacks.nan.limit=1"]
    assert sweep(photo_folder, *varied, *length) == 0
    found = {trial.params["optimizer.lr"]: trial for trial in trials()}
    assert states([found["1e+30"], found["0.001"]]) == ["PRUNED", "COMPLETE"]
    assert "not finite" in found["1e+30"].user_attrs["reason"]


OWN = """\
from pytorch_lightning.callbacks import Callback


class Fragile(Callback):
    def __init__(self, breaks):
        self.breaks = breaks

    def on_train_start(self, trainer, module):
        if self.breaks:
            raise RuntimeError("the disk is gone")
"""

EXPERIMENT = """\
# @package _global_
defaults: [tiny]
name: own
callbacks: {fragile: {_target_: fragile.Fragile, breaks: false}}
hydra: {sweeper: {params: {callbacks.fragile.breaks: "choice(true,false)"}}}
"""


@pytest.mark.thorough
def test_an_experiment_from_outside_says_what_varies_and_any_error_fails_its_trial_alone(
    photo_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (home / "mine" / "experiments").mkdir(parents=True)
    (home / "mine" / "fragile.py").write_text(OWN)
    (home / "mine" / "experiments" / "own.yaml").write_text(EXPERIMENT)
    monkeypatch.setenv("SSPIR_PATH", str(home / "mine"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert sweep(photo_folder, "experiments=own", *ALL, "hydra.sweeper.n_trials=2") == 2
    assert "callbacks.fragile.breaks=True: RuntimeError: the disk is gone" in capsys.readouterr().err
    found = {trial.params["callbacks.fragile.breaks"]: trial for trial in trials("runs/own/sweep-search")}
    assert states([found["True"], found["False"]]) == ["FAIL", "COMPLETE"]
    assert found["True"].user_attrs["reason"] == "RuntimeError: the disk is gone"
    assert Path("runs/own/none-breaks-False-s0/summary.json").is_file()


@pytest.mark.slow
def test_several_objectives_make_a_front_and_prune_nothing(
    photo_folder: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    varied = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "+metric.shift={_target_:sspir.metrics.ColorShift}"]
    both = ["hydra.sweeper.objectives=[psnr_y,shift]", *varied]
    assert sweep(photo_folder, *both, "hydra.sweeper.pruner.n_warmup_steps=3") == 2
    assert "Optuna prunes by one objective alone" in capsys.readouterr().err
    assert sweep(photo_folder, *both, "hydra.sweeper.n_trials=3") == 0
    found = trials()
    assert [len(trial.values) for trial in found] == [2, 2, 2]
    from sspir.training.study import load_study

    study = load_study(Path("runs/tiny/sweep-search"), "search")
    assert [way.name for way in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    page = report("runs")
    assert "psnr_y (highest is best), shift (lowest is best)" in page
    assert "shift against psnr_y" in page
    assert "importance for shift" in page
    assert sweep(photo_folder, *varied) == 2
    told = capsys.readouterr().err
    assert "was begun with the objectives psnr_y, shift, now it is psnr_y; name this one by hydra.sweeper.study" in told


def test_a_study_lies_in_its_folder_whatever_the_folders_name(home: Path) -> None:
    from sspir.training.study import begin_study, load_studies

    folder = home / "what? 50%20 {a}#b"
    folder.mkdir()
    begin_study(folder, "s", {"psnr_y": "max"}, {}, [])
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert [study.study_name for study in load_studies(folder)] == ["s"]


@pytest.mark.parametrize("less", [True, False])
def test_a_killed_trial_of_another_space_is_given_up(
    less: bool, photo_folder: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    from sspir.training.study import begin_study

    before = ["batch_size=choice(1,2)", "ablation=choice(none)"]
    distributions = {each.name: each.distribution() for each in split_space(before)[1]}
    folder = Path("runs/tiny/sweep-search")
    folder.mkdir(parents=True)
    begin_study(folder, "search", {"psnr_y": "max"}, distributions, []).ask(distributions)
    given = before[:1] if less else [*before, "+optimizer.eps=choice(1e-8)"]
    assert sweep(photo_folder, *given, "hydra.sweeper.n_trials=1") == 0
    (trial,) = trials()
    assert states([trial]) == ["FAIL"]
    now = "batch_size" if less else "batch_size, ablation, optimizer.eps"
    assert trial.user_attrs["reason"] == f"It was stopped with values of batch_size, ablation; the space is now {now}."
    assert f"Trial 0 failed: {trial.user_attrs['reason']}" in capsys.readouterr().out


def test_a_study_is_of_one_space_and_other_settings_are_told(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sspir.training.study import begin_study

    def begin(text: str, *settings: str) -> Any:
        _, (varied,) = split_space([text])
        return begin_study(home, "s", {"psnr_y": "max"}, {varied.name: varied.distribution()}, settings)

    first = "ablation=choice(none,no_explicit)"
    begin(first).ask({"ablation": split_space([first])[1][0].distribution()})
    begin(first)
    assert not caplog.records
    begin(first, "batch_size=4")
    assert "begun with other settings (batch_size=4)" in caplog.text
    with pytest.raises(UserError, match=r"The study s in .* was begun with ablation in .*no_explicit"):
        begin("ablation=choice(none,no_rgb_loss)")


@pytest.mark.parametrize(
    ("text", "optuna", "wandb"),
    [
        (
            "optimizer.lr=tag(log,interval(1e-5,1e-3))",
            "FloatDistribution(high=0.001, log=True, low=1e-05, step=None)",
            {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        ),
        (
            "a=interval(0,1)",
            "FloatDistribution(high=1.0, log=False, low=0.0, step=None)",
            {"distribution": "uniform", "min": 0.0, "max": 1.0},
        ),
        ("a=int(interval(2,5))", "IntDistribution(high=5, log=False, low=2, step=1)", {"min": 2, "max": 5}),
        ("a=range(8,33,8)", "IntDistribution(high=32, log=False, low=8, step=8)", {"values": [8, 16, 24, 32]}),
        (
            "a=range(1.0,4.0)",
            "FloatDistribution(high=3.0, log=False, low=1.0, step=1.0)",
            {"values": [1.0, 2.0, 3.0]},
        ),
        (
            "a=tag(log,range(1,65))",
            "IntDistribution(high=64, log=True, low=1, step=1)",
            {"distribution": "q_log_uniform_values", "q": 1, "min": 1, "max": 64},
        ),
        (
            "+optimizer.betas=choice([0.9,0.99],other)",
            "CategoricalDistribution(choices=('[0.9,0.99]', 'other'))",
            {"values": ["[0.9,0.99]", "other"]},
        ),
        ("seed=0,1", "CategoricalDistribution(choices=('0', '1'))", {"values": ["0", "1"]}),
    ],
)
def test_hydras_syntax_is_a_space_for_optuna_and_for_wandb(text: str, optuna: str, wandb: dict[str, Any]) -> None:
    needs("optuna", "search")
    fixed, (parameter,) = split_space(["experiments=tiny", text])
    assert fixed == ["experiments=tiny"]
    assert str(parameter.distribution()) == optuna
    assert parameter.for_wandb() == wandb


def test_glob_means_the_choices_of_a_group() -> None:
    _, (parameter,) = split_space(["ablation=glob(no_*, exclude=no_i*)"])
    assert "no_explicit" in parameter.choices
    assert not {"none", "no_implicit"} & set(parameter.choices)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed=0", "nothing to search"),
        ("a=tag(fast,interval(1,2))", "no tag but log"),
        ("a=tag(log,interval(0,2))", "above 0"),
        ("a=interval(2,1)", "ends before it begins"),
        ("a=tag(log,choice(b,c))", "log takes"),
        ("a=interval(1", "interval"),
    ],
)
def test_what_is_no_space_is_told(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        split_space([text])


def test_the_best_value_is_of_the_whole_record(tmp_path: Path) -> None:
    def record(*rows: tuple[float, float]) -> None:
        lines = [{"step": step, "val/psnr_y": a, "val/lpips": b} for step, (a, b) in enumerate(rows)]
        text = "".join(json.dumps(line) + "\n" for line in [HEADER, {"step": 0, "loss/total": 1.0}, *lines])
        (tmp_path / "metrics.jsonl").write_text(text)

    assert best_values(tmp_path, ["psnr_y"], "max") == []
    record((20, 0.3), (22, 0.5), (21, 0.1))
    assert best_values(tmp_path, ["psnr_y"], "max") == [22]
    assert best_values(tmp_path, ["psnr_y", "lpips"], "max") == [22, 0.5]
    assert best_values(tmp_path, ["lpips", "psnr_y"], "min") == [0.1, 21]
    assert best_values(tmp_path, ["dists"], "min") == []
    record((math.nan, 0.3), (22, 0.5))
    assert best_values(tmp_path, ["psnr_y"], "max") == [22]
    record((22, 0.5), (math.nan, 0.3))
    assert math.isnan(best_values(tmp_path, ["psnr_y"], "max")[0])


def test_the_task_returns_the_best_value_also_of_a_finished_run(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and back at the end
    overrides = settings(photo_folder, f"folder={tmp_path}/run")
    found = []
    for _ in range(2):
        config = compose_config("train", overrides)
        with initialize_config_dir(str(config_root() / "conf"), version_base="1.3"):
            HydraConfig.instance().set_config(compose("train", overrides, return_hydra_config=True))
        found.append(run(config))
    history = read_history(tmp_path / "run" / "metrics.jsonl")
    assert found == 2 * [max(row["val/psnr_y"] for row in history if "val/psnr_y" in row)]


def test_without_optuna_one_sentence_says_what_to_install(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)  # an import fails as where it is not installed
    assert sweep(photo_folder, "optimizer.lr=interval(1e-4,1e-3)") == 2
    assert "pip install 'sspir[search]'" in capsys.readouterr().err
    (tmp_path / "study.db").touch()
    assert main(["report", "."]) == 2
    assert "pip install 'sspir[search]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_trial_goes_on_in_its_run_and_a_search_runs_once(
    photo_folder: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    length = ["trainer.max_steps=12", "trainer.val_check_interval=2", "checkpoint_every=1"]
    command = settings(photo_folder, "optimizer.lr=interval(1e-4,1e-3)", "hydra.sweeper.n_trials=2", *length)
    process = start("sweep", *command, log=home / "log")
    wait_until(lambda: any(path.read_text().count("\n") > 4 for path in home.rglob("metrics.jsonl")), process)
    assert main(["sweep", *command]) == 2
    assert f"is being trained in by process {process.pid}" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    (trial,) = trials()
    assert states([trial]) == ["RUNNING"]
    assert main(["sweep", *command]) == 0
    found = trials()
    assert states(found) == ["COMPLETE", "COMPLETE"]
    assert found[0].params == trial.params != found[1].params
    assert len(list(home.rglob("summary.json"))) == 2
    assert list(found[0].intermediate_values) == list(range(2, 13, 2))


@pytest.mark.slow  # a sweep of joblib is a thorough test
def test_trials_run_in_parallel_processes(photo_folder: Path, home: Path, capsys: pytest.CaptureFixture) -> None:
    needs("hydra_plugins.hydra_joblib_launcher", "joblib")
    parallel = [
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.n_trials=4",
    ]
    missing = home / "missing"
    varied = [f"dataset.train.root=choice({photo_folder},{missing})", "optimizer.lr=choice(1e-3,1e-4)"]
    assert sweep(photo_folder, *varied, *ALL, *parallel) == 2
    assert re.search(rf"Trial \d: {missing} is not a folder", capsys.readouterr().err)
    found = [(trial.params["dataset.train.root"], trial.state.name) for trial in trials()]
    assert sorted(found) == sorted(2 * [(str(photo_folder), "COMPLETE"), (str(missing), "FAIL")])

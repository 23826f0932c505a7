"""Where a training starts: what passes for the same run, what may change, and that nobody else trains in its folder."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import AdamW

from sspir.config.compose import compose_config
from sspir.errors import NotApplicableError, UserError
from sspir.report.runs import PHOTOS, read_settings
from sspir.training.checkpoint import LAST, AtomicCheckpointIO, load_checkpoint
from sspir.training.fit import train
from sspir.training.losses import RestorationLoss
from sspir.training.resume import _changes, finished, put_in_order, starting_point
from sspir.training.run import alone_in, find_checkpoint, run_id
from sspir.training.schedule import rate_at
from tests.runs import tiny_config, tiny_run


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "run"
    tiny_run(folder, photo_folder, "trainer.max_steps=2")
    return folder


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "run"))


def begin(folder: Path, photos: Path, *changes: str) -> Path | None:
    """Come to a run's first step: the checkpoint that it goes on from, its folder in order."""
    config = tiny_config(folder, photos, *changes)
    return put_in_order(folder, starting_point(folder, config), config.resume)


def steps_of(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss/total" in line]


def content(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def power_cut(*_: object) -> None:
    raise RuntimeError("the power is out")


@pytest.mark.thorough
def test_a_run_that_starts_anew_leaves_nothing_of_the_old_one_in_force(
    run: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, kept = run_id(run), find_checkpoint(run).read_bytes()
    other = ["loss.rgb=0.5", "trainer.max_steps=2"]

    with monkeypatch.context() as broken:
        broken.setattr(RestorationLoss, "structure", power_cut)
        with pytest.raises(RuntimeError):
            tiny_run(run, photo_folder, *other, "resume=never")
    assert f"what was trained in {run} before is in {run}/replaced/1" in caplog.text
    assert (run / "replaced" / "1" / "checkpoints" / LAST).read_bytes() == kept
    done = tiny_run(run, photo_folder, *other)  # neither finished nor refused, nor from the old checkpoint
    assert done["step"] == 2
    assert steps_of(run) == [1, 2]
    assert load_checkpoint(find_checkpoint(run))["config"]["loss"]["rgb"] == 0.5
    assert run_id(run) != before


def test_a_finished_run_that_goes_on_and_breaks_is_not_finished(
    run: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(RestorationLoss, "structure", power_cut)
        with pytest.raises(RuntimeError):
            tiny_run(run, photo_folder, "trainer.max_steps=4")
    assert finished(run, tiny_config(run, photo_folder, "trainer.max_steps=4")) is None
    for number in (2, 5):  # of earlier ones, some of which a person has deleted
        (run / "replaced" / str(number)).mkdir(parents=True)
    begin(run, photo_folder, "resume=never")
    assert (run / "replaced" / "6" / "checkpoints" / LAST).is_file()


def test_the_checkpoint_says_which_run_it_is_of(run: Path, photo_folder: Path) -> None:
    config = OmegaConf.load(run / "config.yaml")
    config.loss.rgb = config.module.loss.rgb = 0.5
    OmegaConf.save(config, run / "config.yaml")
    with pytest.raises(UserError, match=r"another configuration \(loss.rgb was 1.0, now 0.5\); name this one"):
        tiny_run(run, photo_folder, "trainer.max_steps=3", "loss.rgb=0.5")
    assert begin(run, photo_folder, "trainer.max_steps=3") == run / "checkpoints" / LAST


@pytest.mark.thorough
def test_a_command_that_failed_before_its_first_step_can_be_corrected(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="residual needs a Processor with a front"):
        tiny_run(tmp_path / "run", photo_folder, "processor.front_features=0")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0, "loss/total": 1.0}\n')  # of steps before a checkpoint
    assert tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=1")["step"] == 1
    assert steps_of(tmp_path / "run") == [1]


@pytest.mark.parametrize(
    "change",
    [
        "dataset.train.cache=false",
        "+dataset.train.cache_gb=1",
        "trainer.devices=2",
        "+metric.vif._target_=sspir.metrics.psnr_ssim.PSNR",
        "monitor=ssim_y",
        "callbacks.panels.count=1",
        "trainer.val_check_interval=1",
        "sampler.steps=3",
        "workers=1",
        "module.capture=false",
        "~module.capture",  # as records of before have it
    ],
)
def test_what_changes_nothing_may_change_unsaid(
    change: str, ended: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished(ended, tiny_config(ended, photo_folder, "trainer.max_steps=2", change))
    assert ("other settings" in caplog.text) is (change == "trainer.devices=2")  # the effective batch


@pytest.mark.parametrize(
    "change",
    ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.5", "callbacks.ema=null", "callbacks.ema.decay=0.9"],
)
def test_what_changes_the_result_is_said(
    change: str, ended: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished(ended, tiny_config(ended, photo_folder, "trainer.max_steps=2", change))
    assert f"is finished, and was trained with other settings: {change.partition('=')[0]}" in caplog.text
    assert "nothing to do" not in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "trainer.max_steps=1",
            r"is at step 2 already, beyond trainer\.max_steps=1; ask for more steps, or start anew",
        ),
        ("monitor=val/psnr_y", r"is finished, and monitor=val/psnr_y was not validated; leave out val/\."),
        ("monitor=nonsense", r"is finished, and monitor=nonsense was not validated; name a metric that .*summary.json"),
    ],
)
def test_what_a_finished_run_cannot_answer_is_refused(
    change: str, sentence: str, ended: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=sentence):
        finished(ended, tiny_config(ended, photo_folder, "trainer.max_steps=2", change))
    assert "finished" not in caplog.text


@pytest.mark.parametrize("change", ["seed=1", "batch_size=1", "optimizer.lr=0.5", "dataset.train.crop.size=16"])
def test_what_makes_it_another_run_is_refused(change: str, ended: Path, photo_folder: Path) -> None:
    with pytest.raises(UserError, match=rf"another configuration \({change.partition('=')[0]} was"):
        finished(ended, tiny_config(ended, photo_folder, "trainer.max_steps=2", change))


@pytest.mark.thorough
def test_a_longer_schedule_says_that_the_rate_jumps_and_holds_it_if_asked(
    run: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "loss/to')  # torn by a kill
    shape = [
        "module.structure_steps=0",
        "schedule.num_warmup_steps=0",
        "schedule.num_training_steps=${trainer.max_steps}",
    ]
    held = Path(shutil.copytree(run, run.with_name("held")))
    for folder in (run, held):
        tiny_run(folder, photo_folder, "resume=never", *shape, "trainer.max_steps=3")
    caplog.clear()
    caplog.set_level("INFO", "sspir")
    tiny_run(run, photo_folder, *shape, "trainer.max_steps=6")
    assert "Going on after step 3" in caplog.text
    assert "The learning rate jumps from 0.0005 to 0.001 at step 3" in caplog.text
    caplog.clear()
    tiny_run(held, photo_folder, *shape, "trainer.max_steps=6", "schedule.after=hold")
    assert "jumps" not in caplog.text
    rates = [load_checkpoint(find_checkpoint(folder))["lr_schedulers"][0]["_last_lr"] for folder in (run, held)]
    assert rates[0] == pytest.approx([0.0])
    assert rates[1] == pytest.approx([2e-3 * 0.25])
    assert load_checkpoint(find_checkpoint(held))["config"]["schedule"]["num_training_steps"] == 3
    assert steps_of(held) == list(range(1, 7))


@pytest.mark.thorough
def test_another_schedule_goes_on_at_the_runs_step(run: Path, photo_folder: Path) -> None:
    """From a cosine to none, and back to a longer one."""
    shape = ["module.structure_steps=2", "schedule.num_warmup_steps=1", "trainer.limit_val_batches=0"]
    tiny_run(run, photo_folder, *shape, "trainer.max_steps=3", "schedule=null")
    tiny_run(run, photo_folder, *shape, "trainer.max_steps=5", "schedule.num_training_steps=10")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr-AdamW"] for line in lines if "lr-AdamW" in line]
    config = tiny_config(run, photo_folder, *shape, "schedule.num_training_steps=10")
    longer = [rate_at(step, instantiate(config.optimizer), instantiate(config.schedule)) for step in (3, 4)]
    assert rates[2:] == pytest.approx([config.optimizer.lr, *longer])
    assert load_checkpoint(find_checkpoint(run))["lr_schedulers"][0]["last_epoch"] == 5


def grouped(weights: list[torch.nn.Parameter], **settings: Any) -> AdamW:
    """An optimizer whose second group has a rate of its own."""
    return AdamW([{"params": weights[:1]}, {"params": weights[1:], "lr": settings["lr"] / 10}], **settings)


STEPPED, CYCLE = (
    {"_target_": f"torch.optim.lr_scheduler.{name}", "_partial_": True} for name in ("StepLR", "OneCycleLR")
)
COSINE = {"_target_": "sspir.training.cosine", "_partial_": True, "num_warmup_steps": 2, "num_training_steps": 9}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "schedules",
    [
        [{**STEPPED, "step_size": 1, "gamma": gamma} for gamma in (0.5, 0.4)],
        pytest.param(
            [{**STEPPED, "step_size": 1}, {**CYCLE, "max_lr": [1e-3, 1e-4], "total_steps": 9}, COSINE],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_schedules_of_torch_go_on_at_the_runs_step_in_every_group(
    schedules: list[dict[str, Any]], photo_folder: Path, tmp_path: Path
) -> None:
    """They compute a rate from the last one, keep their settings in their state, and set more than rates."""
    quick = ["schedule=null", "module.structure_steps=0", "trainer.limit_val_batches=0"]
    wanted: list[list[float]] = []
    for steps, schedule in zip((2, 4, 6), schedules, strict=False):
        config = tiny_config(tmp_path / "run", photo_folder, *quick, f"trainer.max_steps={steps}")
        config.optimizer._target_ = "tests.training.test_resume.grouped"
        config.schedule = schedule
        train(config)
        optimizer = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1)) for _ in range(2)])
        scheduler = instantiate(config.schedule, _convert_="all")(optimizer)
        for step in range(steps):
            if step >= steps - 2:
                wanted.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [[line[f"lr-AdamW/pg{group}"] for group in (1, 2)] for line in lines if "lr-AdamW/pg1" in line]
    assert rates == [pytest.approx(each) for each in wanted]


def test_a_run_whose_schedule_is_refused_today_goes_on_with_another(
    run: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that ended by epochs, of an endless cosine."""
    state = torch.load(find_checkpoint(run), weights_only=True)
    state["config"]["schedule"]["num_training_steps"] = state["config"]["module"]["schedule"]["num_training_steps"] = -1
    torch.save(state, find_checkpoint(run))
    held = ["schedule.num_training_steps=${trainer.max_steps}", "schedule.after=hold", "trainer.limit_val_batches=0"]
    assert tiny_run(run, photo_folder, "trainer.max_steps=3", *held)["step"] == 3
    assert load_checkpoint(find_checkpoint(run))["config"]["schedule"]["num_training_steps"] == 3
    assert "jumps" not in caplog.text


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """As in a terminal: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Stopping(Callback):
    """Stops a run in its third batch, which is the first of its second step."""

    def __init__(self, moment: str, update: int = 2) -> None:
        self.moment, self.update, self.batches, self.step = moment, update, 0, AdamW.step

    def on_train_batch_start(self, *_: Any) -> None:
        self.batches += 1

    def on_before_backward(self, *_: Any) -> None:
        if self.moment == "within a batch" and self.batches == 3:
            raise KeyboardInterrupt

    def on_train_batch_end(self, *_: Any) -> None:
        if self.moment == "after a batch" and self.batches == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        if (
            self.moment == "after an update" and self.batches == self.update
        ):  # other callbacks have not seen the step yet
            os.kill(os.getpid(), signal.SIGINT)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: AdamW) -> None:
        def torn(*arguments: Any, **options: Any) -> None:
            self.step(optimizer, *arguments, **options)
            raise KeyboardInterrupt

        if self.moment == "within an update" and self.batches == 2:  # this step has begun: of the next one
            optimizer.step = torn  # type: ignore[method-assign]  # of this one alone


@pytest.mark.thorough
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    "moment",
    [
        "after a batch",
        "after an update",
        pytest.param("within a batch", marks=pytest.mark.thorough),
        pytest.param("within an update", marks=pytest.mark.thorough),
    ],
)
def test_a_signal_amid_a_step_loses_nothing_of_it(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    changes = ["trainer.accumulate_grad_batches=2", "trainer.max_steps=3", "data.passes=4"]
    changes += ["trainer.limit_val_batches=0"]
    resume = "never" if moment == "after an update" else "auto"
    every = f"checkpoint_every={1 if moment == 'within an update' else 100}"  # where the signal saves nothing
    stop = f"+callbacks.stop={{_target_:tests.training.test_resume.Stopping,moment:{moment}}}"
    tiny_run(tmp_path / "whole", photo_folder, *changes)
    with pytest.raises(SystemExit) as stopped:
        tiny_run(tmp_path / "run", photo_folder, *changes, every, stop, f"resume={resume}")
    name, status = ("SIGTERM", 143) if moment == "after a batch" else ("Ctrl-C", 130)
    assert stopped.value.code == status
    by = "" if resume == "auto" else "with resume=auto "
    assert f"Stopped by {name}; {by}the same command goes on from {tmp_path / 'run'}" in caplog.text
    assert load_checkpoint(find_checkpoint(tmp_path / "run"))["global_step"] == 1
    tiny_run(tmp_path / "run", photo_folder, *changes)
    whole, again = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("whole", "run"))
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, again[part][key]) for key, value in whole[part].items())
    assert steps_of(tmp_path / "run") == [1, 2, 3]


@pytest.mark.thorough
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("update", [2, pytest.param(3, marks=pytest.mark.thorough)])  # an epoch's last, and first
def test_ctrl_c_at_an_epochs_ends_loses_nothing(photo_folder: Path, tmp_path: Path, update: int) -> None:
    changes = ["+trainer.limit_train_batches=2", "trainer.max_steps=5", "data.passes=4", "trainer.limit_val_batches=0"]
    stop = f"+callbacks.stop={{_target_:tests.training.test_resume.Stopping,moment:after an update,update:{update}}}"
    tiny_run(tmp_path / "whole", photo_folder, *changes)
    with pytest.raises(SystemExit):
        tiny_run(tmp_path / "run", photo_folder, *changes, "checkpoint_every=100", stop)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert load_checkpoint(find_checkpoint(tmp_path / "run"))["global_step"] == update
    tiny_run(tmp_path / "run", photo_folder, *changes)
    whole, again = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("whole", "run"))
    assert all(torch.equal(value, again["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert (whole["epoch"], whole["global_step"]) == (again["epoch"], again["global_step"])


def test_a_term_that_was_added_since_and_weighs_nothing_is_no_other_setting(tmp_path: Path) -> None:
    config = compose_config("train", ["experiments=tiny_one_step", f"folder={tmp_path}"])
    before = OmegaConf.to_container(config, resolve=True)
    for terms in (before["objective"]["terms"], before["module"]["objective"]["terms"]):
        terms.pop("seams", None)
    assert not _changes(tmp_path, before, config)
    config.objective.terms.seams.weight = 0.5
    with pytest.raises(UserError, match=r"objective\.terms\.seams"):
        _changes(tmp_path, before, config)


@pytest.mark.parametrize("kind", ["shards", "taught"])
def test_packed_photos_may_lie_elsewhere(kind: str, tmp_path: Path) -> None:
    given = ["experiments=tiny_one_step", f"dataset={kind}", f"folder={tmp_path}"]
    before, now = (compose_config("train", [*given, f"dataset.train.folder={place}"]) for place in ("a", "/b/a"))
    assert not _changes(tmp_path, OmegaConf.to_container(before, resolve=True), now)


HOLDER = """
import os, sys, time
from pathlib import Path
from sspir.training.run import alone_in
with alone_in(Path(sys.argv[1])):
    if not os.fork():
        time.sleep(60)  # as a loader's process, which outlives a killed training
        os._exit(0)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.thorough
def test_two_processes_do_not_train_in_one_folder_and_a_dead_one_frees_it(photo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=rf"is being trained in by process {holder.pid} on {os.uname().nodename};"):
            tiny_run(tmp_path / "run", photo_folder)
        holder.kill()
        holder.wait()
        with alone_in(tmp_path / "run"):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_only_the_first_process_writes(
    run: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for resume, start in (("never", None), ("auto", run / "checkpoints" / LAST)):
        with alone_in(run):
            assert begin(run, photo_folder, f"resume={resume}") == start
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_checkpoints_take_the_rights_of_other_files_and_leave_no_parts(run: Path, photo_folder: Path) -> None:
    umask = os.umask(0o027)
    try:
        AtomicCheckpointIO().save_checkpoint({"global_step": 1}, run / "checkpoints" / "shared.ckpt")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((run / "checkpoints" / "shared.ckpt").stat().st_mode) == 0o640
    for name in (".last.ckpt.part", ".last.ckpt.k3j2"):  # left by a kill, the latter by an older version
        (run / "checkpoints" / name).write_bytes(b"gigabytes")
    begin(run, photo_folder)
    assert not list((run / "checkpoints").glob(".*"))


def test_the_last_step_is_validated_whatever_the_interval(photo_folder: Path, tmp_path: Path) -> None:
    done = tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=3", "trainer.val_check_interval=2")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["val/psnr_y"] for line in lines if "val/psnr_y" in line}
    assert len(validated) == 2
    assert done["val/psnr_y"] == pytest.approx(validated[max(validated)])
    assert max(validated) == 3
    assert validated[2] != validated[3]


@pytest.mark.thorough
def test_a_run_that_ends_by_epochs_is_whole_and_finished(photo_folder: Path, tmp_path: Path) -> None:
    ends = ["trainer.max_steps=-1", "trainer.max_epochs=1", "data.passes=1", "checkpoint_every=100"]
    done = tiny_run(tmp_path / "run", photo_folder, *ends)
    assert load_checkpoint(find_checkpoint(tmp_path / "run"))["global_step"] == done["step"] == 1
    before = find_checkpoint(tmp_path / "run").stat().st_mtime_ns
    assert tiny_run(tmp_path / "run", photo_folder, *ends) == done
    assert find_checkpoint(tmp_path / "run").stat().st_mtime_ns == before
    assert tiny_run(tmp_path / "run", photo_folder, *ends, "trainer.max_epochs=2")["step"] == 2


@pytest.mark.thorough
def test_a_run_that_is_stopped_early_is_whole_and_goes_on_with_more_patience(
    photo_folder: Path, tmp_path: Path
) -> None:
    # nothing is ever better by 100 dB than the first validation
    patience = "callbacks.early_stopping.patience"
    early = ["callbacks=early_stopping", f"{patience}=1", "callbacks.early_stopping.min_delta=100"]
    longer = ["checkpoint_every=100", "trainer.val_check_interval=1", "trainer.max_steps=5"]
    done = tiny_run(tmp_path / "run", photo_folder, *longer, *early)
    assert done["step"] == 2
    last = find_checkpoint(tmp_path / "run")
    assert load_checkpoint(last)["global_step"] == 2
    before = last.stat().st_mtime_ns
    assert tiny_run(tmp_path / "run", photo_folder, *longer, *early) == done
    assert last.stat().st_mtime_ns == before
    more = [*longer, *early, f"{patience}=3"]
    assert tiny_run(tmp_path / "run", photo_folder, *more)["step"] == 4
    tiny_run(tmp_path / "whole", photo_folder, *more)
    states = [load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("run", "whole")]
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, states[1][part][key]) for key, value in states[0][part].items()), part
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "whole") == [1, 2, 3, 4]


@pytest.mark.thorough
def test_the_best_checkpoint_goes_on_with_the_next_step(photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=2", "trainer.val_check_interval=2")
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=4", "trainer.val_check_interval=2", "resume=best")
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4]


def test_a_run_that_was_stopped_beyond_the_steps_asked_for_says_so_and_stays(run: Path, photo_folder: Path) -> None:
    (run / "summary.json").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"last\.ckpt is at step 2 already, beyond trainer\.max_steps=1"):
        tiny_run(run, photo_folder, "trainer.max_steps=1")
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.thorough
def test_what_followed_an_earlier_checkpoint_is_kept(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the branch that is left: its best checkpoint, its milestones, reached again or not, and its records."""
    run, kept = tmp_path / "run", tmp_path / "run" / "replaced" / "1"
    longer = ["keep_every=2", "trainer.val_check_interval=3", "schedule.num_training_steps=9"]
    tiny_run(run, photo_folder, *longer, "trainer.max_steps=6")
    state = torch.load(find_checkpoint(run, "step-2"), weights_only=True)
    (best,) = [value for key, value in state["callbacks"].items() if "val/psnr_y" in key]
    best["best_model_path"] = best["kth_best_model_path"] = str(run / "checkpoints" / "best.ckpt")  # of step 1, say
    best["best_k_models"] = {best["best_model_path"]: torch.tensor(99.0)}
    torch.save(state, find_checkpoint(run, "step-2"))
    files = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert load_checkpoint(find_checkpoint(run, "best"))["global_step"] > 2

    branch = [*longer, "trainer.max_steps=4", "trainer.gradient_clip_val=0.01", "resume=step-2"]
    with monkeypatch.context() as broken:
        broken.setattr("sspir.training.replaced.shutil.move", power_cut)
        with pytest.raises(RuntimeError):
            tiny_run(run, photo_folder, *branch)
    (kept / "summary.json").rename(run / "summary.json")
    shutil.rmtree(run / "replaced")
    assert all((run / path).read_bytes() == content for path, content in files.items())
    assert tiny_run(run, photo_folder, *branch)["step"] == 4
    assert f"what was trained after it is in {kept}." in caplog.text
    here = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lost = [path for path, content in files.items() if content not in (here.get(path), here.get("replaced/1" / path))]
    assert [path.name for path in lost if path.name not in (".lock", "last-1.ckpt")] == []
    there = {path.name for path in (run / "checkpoints").glob("*.ckpt")}
    assert there == {"last.ckpt", "last-1.ckpt", "best.ckpt", "step-2.ckpt", "step-4.ckpt"}
    assert load_checkpoint(find_checkpoint(run, "step-4"))["config"]["trainer"]["gradient_clip_val"] == 0.01
    assert (steps_of(kept), steps_of(run)) == ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4])
    assert {path.name for path in (kept / "panels").glob("0-*")} == {f"0-step000000{step}.png" for step in (3, 6)}
    assert finished(kept, tiny_config(kept, photo_folder, *longer, "trainer.max_steps=6"))


@pytest.mark.parametrize(
    ("resume", "change", "sentence"),
    [
        ("best", ["dataset.train.root=/nowhere"], "/nowhere is not a folder"),
        ("best", ["trainer.strategy=ddp", "trainer.devices=2"], "2 devices take a process each"),
        (
            "best",
            ["trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=99"],
            r"An epoch of \d+ batches ends before the validation that comes every 99: lower trainer.val_check_interval",
        ),
        ("best", ["trainer.limit_val_batches=0.1"], "limit_val_batches=0.1 of 2 batches is less than one; raise it"),
        (
            "best",
            ["trainer.accumulate_grad_batches=99"],
            r"An epoch of \d+ photos does not fill the batches of one step",
        ),
        ("never", ["dataset.train.root=/nowhere"], "/nowhere is not a folder"),
        ("never", ["processor.front_features=0"], "residual needs a Processor with a front"),
    ],
)
def test_a_command_that_is_refused_takes_no_run_apart(
    resume: str, change: list[str], sentence: str, run: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):  # a launcher's, or left by one
        monkeypatch.delenv(name, raising=False)
    earlier = torch.load(find_checkpoint(run, "best"), weights_only=True) | {"global_step": 1}
    torch.save(earlier, find_checkpoint(run, "best"))
    before = content(run)
    with pytest.raises(UserError, match=sentence):
        tiny_run(run, photo_folder, "trainer.max_steps=3", f"resume={resume}", *change)
    assert content(run) == before


@pytest.mark.parametrize(
    ("resume", "noted", "sentence"),
    [
        ("auto", "frozen", "trained with another text_encoder"),
        pytest.param("best", "frozen", "trained with another text_encoder", marks=pytest.mark.thorough),
        pytest.param("best", "base", "trained on another base", marks=pytest.mark.thorough),
        ("best", "state_dict", "is of another network"),
    ],
)
def test_a_checkpoint_of_other_parts_takes_no_run_apart(
    resume: str, noted: str, sentence: str, run: Path, photo_folder: Path
) -> None:
    path = find_checkpoint(run, "last" if resume == "auto" else resume)
    state = torch.load(path, weights_only=True) | {"global_step": 1}
    other = {"frozen": {"text_encoder": state["frozen"]["text_encoder"] + 1}, "base": torch.ones(9), "state_dict": {}}
    torch.save(state | {noted: other[noted]}, path)
    before = content(run)
    with pytest.raises(UserError, match=sentence):
        tiny_run(run, photo_folder, "trainer.max_steps=3", f"resume={resume}")
    assert content(run) == before


@pytest.mark.thorough
def test_a_finished_run_goes_back_once(photo_folder: Path, tmp_path: Path) -> None:
    run, clip = tmp_path / "run", "trainer.gradient_clip_val"
    shape = ["schedule.num_training_steps=${trainer.max_steps}", "schedule.after=hold", "trainer.max_steps=2"]
    shape += ["keep_every=1", "trainer.limit_val_batches=0"]
    tiny_run(run, photo_folder, *shape)
    assert finished(run, tiny_config(run, photo_folder, *shape, "resume=last"))  # there is nothing to go back to
    back = [*shape, "resume=step-1.ckpt", "trainer.max_steps=3"]
    assert tiny_run(run, photo_folder, *back, f"{clip}=0.01")["step"] == 3
    assert load_checkpoint(find_checkpoint(run))["config"]["trainer"]["gradient_clip_val"] == 0.01
    assert finished(run, tiny_config(run, photo_folder, *back, f"{clip}=0.01"))  # a job that is queued again
    assert not finished(run, tiny_config(run, photo_folder, *back, f"{clip}=0.02"))


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "{run}/checkpoints/last.ckpt", "none", "none.ckpt", "."])
def test_a_checkpoint_to_go_on_from_is_a_name_in_the_run(name: str, run: Path, photo_folder: Path) -> None:
    resume = name.format(run=run)
    for steps in (2, 3):  # finished or not
        with pytest.raises(UserError, match=re.escape(f"resume={resume} is none of auto, must and never, nor a check")):
            tiny_run(run, photo_folder, f"trainer.max_steps={steps}", f"resume={resume}")


@pytest.mark.thorough
def test_another_number_of_processes_is_said(run: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `trainer.devices=-1` takes what torchrun starts."""
    assert json.loads((run / "environment.json").read_text())["processes"] == 1
    sentence = f"So far {run} was trained with other settings: processes was 8, now 1."
    tiny_run(run, photo_folder, "trainer.max_steps=3")
    assert sentence not in caplog.text
    torch.save(torch.load(find_checkpoint(run), weights_only=True) | {"processes": 8}, find_checkpoint(run))
    tiny_run(run, photo_folder, "trainer.max_steps=4")
    assert sentence in caplog.text


@pytest.mark.thorough
def test_other_photos_stay_on_record(photo_folder: Path, tmp_path: Path) -> None:
    photos, run = Path(shutil.copytree(photo_folder, tmp_path / "photos")), tmp_path / "run"
    counts = []
    for steps in (1, 2, 3):
        tiny_run(run, photos, f"trainer.max_steps={steps}", "data.passes=4")
        recorded = json.loads((run / "environment.json").read_text())
        counts.append([sets["train"]["photos"] for sets in (*recorded["data_before"], recorded["data"])])
        if steps == 1:
            (photos / "train" / "0.png").unlink()
    assert counts == [[3], [3, 2], [3, 2]]
    assert re.fullmatch(r"3 \(\w{8}\), then 2 \(\w{8}\)", read_settings(run)[PHOTOS])

import itertools
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.metrics.base import FolderMetric
from sspir.models.cpu_attention import bf16_attention
from sspir.training.checkpoint import load_checkpoint
from sspir.training.losses import RestorationLoss
from sspir.training.module import RestorationModule
from sspir.training.panels import LogRestorations
from sspir.training.run import find_checkpoint
from sspir.training.saving import SaveAtEnd
from sspir.training.validation import Validation
from sspir.weights.export import card
from tests.runs import ONE_STEP, roots, tiny_config, tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    tiny_run(folder, photo_folder)
    return folder


def test_a_run_leaves_its_record(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["step"] == 4
    assert {"val/psnr_y", "bicubic/psnr_y", "structure/ssim_y"} <= summary.keys()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss/total" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    assert not any("loss/noise" in line for line in losses[:2])  # of the image that residuals refer to
    assert all({"loss/noise", "loss/rgb", "loss/frequency"} <= line.keys() for line in losses[2:])
    assert len(list((finished / "panels").glob("*.png"))) == 4  # two photos, two validations


@pytest.mark.thorough
def test_the_image_that_residuals_refer_to_is_trained_alone_and_then_stays(photo_folder: Path, tmp_path: Path) -> None:
    states = []
    for steps in (1, 2, 4):
        tiny_run(tmp_path / "run", photo_folder, f"trainer.max_steps={steps}")
        states.append(
            load_checkpoint(shutil.copy(find_checkpoint(tmp_path / "run"), tmp_path / f"{steps}.ckpt"))["state_dict"]
        )
    changed = [
        {key for key, value in later.items() if not torch.equal(value, earlier[key])}
        for earlier, later in itertools.pairwise(states)
    ]
    front = {key for key in states[0] if key.startswith("backbone.processor.front.")}
    assert changed[0] == front
    assert not changed[1] & front
    assert {key.split(".")[1] for key in changed[1]} >= {"unet", "controlnet", "processor", "unet_image"}


def test_a_checkpoint_holds_what_is_trained_and_is_safe_to_load(finished: Path) -> None:
    state = load_checkpoint(find_checkpoint(finished))
    assert {key.split(".")[0] for key in state["state_dict"]} == {"backbone", "refine"}
    trained = RestorationModule.from_run(finished).trainable()
    assert len(state["state_dict"]) == sum(len(part.state_dict()) for part in trained.values())
    assert state["ema"].keys() == state["state_dict"].keys()
    assert state["config"]["name"] == "tiny"
    assert state["rng"].dtype == torch.uint8
    for key in (
        "backbone.processor.front.conv_last.weight",
        "backbone.unet.conv_out.weight",
        "backbone.unet.conv_in.weight",
    ):
        assert not torch.equal(state["ema"][key], state["state_dict"][key])


def test_resuming_equals_not_having_stopped(finished: Path, photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=2")
    tiny_run(tmp_path / "run", photo_folder)
    whole, resumed = (load_checkpoint(find_checkpoint(folder)) for folder in (finished, tmp_path / "run"))
    for part in ("state_dict", "ema"):
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]), f"{part} {key}"
    for ours, theirs in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        for index, state in ours["state"].items():
            assert torch.equal(state["exp_avg"], theirs["state"][index]["exp_avg"])
    losses = [
        {
            line["step"]: line["loss/total"]
            for line in map(json.loads, path.read_text().splitlines())
            if "loss/total" in line
        }
        for path in (finished / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]


EPOCHS = ["+trainer.limit_train_batches=2"]  # the validation at the second step is at an epoch's end
ACCUMULATED = ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=1"]  # of which 24 batches are an epoch
EARLY = ["+callbacks.early={_target_: sspir.training.EarlyStopping, monitor: psnr_y, patience: 9}"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("place", "error", "end", "changes"),
    [
        ((Validation, "finish"), KeyboardInterrupt, SystemExit, []),
        ((Validation, "finish"), RuntimeError, RuntimeError, EPOCHS),
        pytest.param((SaveAtEnd, "on_validation_end"), KeyboardInterrupt, SystemExit, EARLY, marks=pytest.mark.slow),
        ((RestorationModule, "training_step"), RuntimeError, RuntimeError, EARLY),
        pytest.param((Validation, "finish"), RuntimeError, RuntimeError, [], marks=pytest.mark.slow),
        pytest.param((Validation, "finish"), KeyboardInterrupt, SystemExit, EPOCHS, marks=pytest.mark.slow),
        pytest.param((Validation, "finish"), KeyboardInterrupt, SystemExit, ACCUMULATED, marks=pytest.mark.slow),
        pytest.param(
            (LogRestorations, "on_validation_end"), KeyboardInterrupt, SystemExit, EARLY, marks=pytest.mark.slow
        ),
    ],
)
def test_a_validation_that_was_stopped_is_made_once(
    place: tuple[type, str],
    error: type[BaseException],
    end: type[BaseException],
    changes: list[str],
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, folders = getattr(*place), [tmp_path / "whole", tmp_path / "run"]
    calls = itertools.count()

    def stopped(self: Any, *arguments: Any) -> Any:
        if next(calls) == (2 if place[1] == "training_step" else 0):  # the first two steps are saved, and validated
            raise error
        return run(self, *arguments)

    tiny_run(folders[0], photo_folder, *changes)
    with monkeypatch.context() as broken:
        broken.setattr(*place, stopped)
        with pytest.raises(end):
            tiny_run(folders[1], photo_folder, *changes)
    tiny_run(folders[1], photo_folder, *changes)
    curves = [
        [line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "val/psnr_y" in line]
        for folder in folders
    ]
    assert len(curves[1]) == (4 if changes == ACCUMULATED else 2)
    assert curves[0] == curves[1]
    for name in ("last", "best"):
        whole, ours = (load_checkpoint(find_checkpoint(folder, name)) for folder in folders)
        counts = [each["loops"]["fit_loop"]["epoch_loop.batch_progress"] for each in (whole, ours)]
        assert counts[0] == counts[1]
        assert [whole[part] for part in ("epoch", "global_step")] == [ours[part] for part in ("epoch", "global_step")]
        known = [
            {key: (state.get("best_model_score"), state.get("wait_count")) for key, state in each["callbacks"].items()}
            for each in (whole, ours)
        ]
        assert list(known[0].values()) == list(known[1].values())
        for part in ("state_dict", "ema"):
            assert all(torch.equal(value, ours[part][key]) for key, value in whole[part].items()), (name, part)


@pytest.mark.thorough
def test_killed_within_the_last_validation_ends_as_unbroken(
    finished: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, calls = Validation.finish, iter(range(100))

    def killed(self: Validation) -> dict[str, torch.Tensor]:
        if next(calls) == 1:  # at the fourth of four steps
            raise RuntimeError("the power is out")
        return finish(self)

    with monkeypatch.context() as broken:
        broken.setattr(Validation, "finish", killed)
        with pytest.raises(RuntimeError):
            tiny_run(tmp_path / "run", photo_folder)
    state = torch.load(find_checkpoint(tmp_path / "run"), weights_only=True)
    assert state["global_step"] == 4
    (best,) = [value for key, value in state["callbacks"].items() if "val/psnr_y" in key]
    best["best_k_models"][best["best_model_path"]] = best["kth_value"] = torch.tensor(1.0)  # the last one is better
    torch.save(state, find_checkpoint(tmp_path / "run"))
    tiny_run(tmp_path / "run", photo_folder)
    told = [json.loads((folder / "summary.json").read_text()) for folder in (finished, tmp_path / "run")]
    validated = {name for name in told[0] if name.startswith(("val/", "bicubic/", "structure/"))}
    assert {"val/psnr_y", "structure/ssim_y"} <= validated
    assert {name: told[1][name] for name in validated} == {name: told[0][name] for name in validated}
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (finished, tmp_path / "run")]
    curves = [[line for line in map(json.loads, each) if "val/psnr_y" in line] for each in lines]
    assert curves[0] == curves[1]
    whole = load_checkpoint(find_checkpoint(finished))
    for name in ("last", "best"):
        ours = load_checkpoint(find_checkpoint(tmp_path / "run", name))
        for part in ("state_dict", "ema"):
            assert all(torch.equal(value, ours[part][key]) for key, value in whole[part].items()), (name, part)
        place = "epoch_loop.batch_progress"  # where training goes on
        assert ours["loops"]["fit_loop"][place] == whole["loops"]["fit_loop"][place]
        (state,) = [value for key, value in ours["callbacks"].items() if "val/psnr_y" in key]
        assert state["best_model_score"] == told[0]["val/psnr_y"]


@pytest.mark.thorough
def test_a_moved_run_keeps_its_best_checkpoint(finished: Path, photo_folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    for path in (moved / "checkpoints").glob("*.ckpt"):  # as if it had validated better than it ever will again
        state = torch.load(path, weights_only=True)
        (best,) = [value for key, value in state["callbacks"].items() if "val/psnr_y" in key]
        best["best_model_score"] = best["kth_value"] = torch.tensor(99.0)
        best["best_k_models"] = dict.fromkeys(best["best_k_models"], torch.tensor(99.0))
        torch.save(state, path)
    before = find_checkpoint(moved, "best").read_bytes()
    tiny_run(moved, photo_folder, "trainer.max_steps=6")
    assert find_checkpoint(moved, "best").read_bytes() == before
    (best,) = [v for k, v in load_checkpoint(find_checkpoint(moved))["callbacks"].items() if "val/psnr_y" in k]
    assert best["best_model_path"] == str(moved / "checkpoints" / "best.ckpt")


def test_a_run_is_repeated_from_its_record(finished: Path, tmp_path: Path) -> None:
    assert main(["train", "--from", str(finished), f"folder={tmp_path / 'again'}"]) == 0
    first, again = (load_checkpoint(find_checkpoint(folder)) for folder in (finished, tmp_path / "again"))
    assert all(torch.equal(value, again["ema"][key]) for key, value in first["ema"].items())
    record = json.loads((tmp_path / "again" / "environment.json").read_text())
    assert record["packages"]["torch"] == torch.__version__.split("+")[0]
    assert "Training tiny (none) in" in (tmp_path / "again" / "train.log").read_text()
    assert main(["train", "--from", str(finished), "folder=x", "sede=1"]) == 2
    assert main(["train", "--from", str(finished)]) == 2
    places = [f"folder={tmp_path / 'broken'}", "dataset.train.root=/nowhere"]
    assert main(["train", "--from", str(finished), *places]) == 2
    assert "[ERROR] - /nowhere is not a folder" in (tmp_path / "broken" / "train.log").read_text()


@pytest.mark.thorough
def test_a_repetition_on_other_photos_warns(
    finished: Path, photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    places = [*roots(copied), "trainer.max_steps=1"]
    assert main(["train", "--from", str(finished), f"folder={tmp_path / 'same'}", "seed=1", *places]) == 0
    repeated = OmegaConf.load(tmp_path / "same" / "config.yaml")
    assert repeated.data.seed == repeated.module.seed == repeated.seed == 1
    assert "photos are not those" not in caplog.text
    (copied / "train" / "0.png").unlink()
    Image.new("RGB", (40, 40)).save(copied / "val" / "0.png")
    assert main(["train", "--from", str(finished), f"folder={tmp_path / 'other'}", *places]) == 0
    assert f"not those that {finished} was trained on" in caplog.text
    assert "the 2 photos of photos have other names or sizes; train had 3 photos, now 2" in caplog.text


def test_the_metric_says_which_checkpoint_is_best(photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", photo_folder, "monitor=ssim_y", "trainer.max_steps=2")
    best = load_checkpoint(find_checkpoint(tmp_path / "run", "best"))["callbacks"]
    (state,) = [value for key, value in best.items() if "val/ssim_y" in key]
    assert "'mode': 'max'" in next(key for key in best if "val/ssim_y" in key)
    assert state["best_model_score"] > 0


def test_a_finished_run_is_skipped(finished: Path, photo_folder: Path) -> None:
    before = find_checkpoint(finished).stat().st_mtime_ns
    assert tiny_run(finished, photo_folder)["step"] == 4
    assert find_checkpoint(finished).stat().st_mtime_ns == before


@pytest.mark.thorough
def test_a_module_comes_back_from_its_run_bit_for_bit(finished: Path, photo_folder: Path) -> None:
    lq = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    drawn = torch.get_rng_state()
    first, second = (RestorationModule.from_run(finished).pipeline.restore(lq, ["a photo"]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), drawn)  # the caller's
    assert torch.equal(first.images, second.images)
    module = RestorationModule.from_run(finished)
    ema = load_checkpoint(find_checkpoint(finished))["ema"]
    assert all(torch.equal(module.state_dict()[key], value) for key, value in ema.items())


def test_training_changes_all_that_is_trained_and_nothing_else(photo_folder: Path, tmp_path: Path) -> None:
    from sspir.training.run import build_module

    changes = ["module.structure_steps=3", "trainer.max_steps=8", "schedule.num_training_steps=9"]  # zeros in series
    tiny_run(tmp_path / "run", photo_folder, *changes, "trainer.val_check_interval=100")
    start = build_module(tiny_config(tmp_path, photo_folder)).state_dict()
    end = RestorationModule.from_run(tmp_path / "run").state_dict()
    trained = ("backbone.", "refine.")
    changed = {key for key, value in end.items() if not torch.equal(value, start[key])}
    assert changed == {key for key in end if key.startswith(trained)}


def test_steps_take_our_attention(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = []

    def watched(*tensors: torch.Tensor) -> torch.Tensor:
        learning.append(torch.is_grad_enabled())  # not in validation, which samples
        return bf16_attention(*tensors)

    monkeypatch.setattr("sspir.models.attention_processor.bf16_attention", watched)
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=3")
    assert any(learning)


def test_a_checkpoint_of_another_network_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    config = OmegaConf.load(folder / "config.yaml")
    config.module.backbone.processor.channels = [4, 4, 6]
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(UserError, match=r"another network.*use the configuration it was trained with"):
        RestorationModule.from_run(folder)


def test_a_broken_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text((finished / "config.yaml").read_text())
    with pytest.raises(UserError, match=r"no checkpoint 'last.ckpt'; it has none yet"):
        RestorationModule.from_run(folder)
    whole = find_checkpoint(finished).read_bytes()
    (folder / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"truncated or corrupted \(File is not a zip file\); there is no other one"):
        RestorationModule.from_run(folder)
    with pytest.raises(UserError, match="no run folder"):
        RestorationModule.from_run(tmp_path)


@pytest.mark.thorough
def test_a_flipped_bit_is_found_and_the_checkpoint_before_goes_on(
    finished: Path, photo_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "summary.json").unlink()
    last = find_checkpoint(folder)
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(UserError, match=r"last-1.ckpt is whole: name it by resume=last-1 to train on"):
        tiny_run(folder, photo_folder)
    assert load_checkpoint(find_checkpoint(folder, "last-1"))["global_step"] == 2
    tiny_run(folder, photo_folder, "resume=last-1")
    whole, again = (load_checkpoint(find_checkpoint(each))["ema"] for each in (finished, folder))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_a_folder_that_takes_no_files_is_one_sentence(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"takes no files \(Not a directory\); make room, or name another"):
        tiny_run(tmp_path / "file" / "run", photo_folder)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["resume=must"], "no .*last.ckpt"),
        (["resume=maybe"], "resume=maybe is none of auto, must and never"),
        (["monitor=psnr"], "monitor=psnr is not validated; choose one of psnr_y, ssim_y"),
        (["monitor=val/psnr_y"], "monitor=val/psnr_y is not validated; leave out val/.$"),
        (["dataset.train.root=/nowhere"], "/nowhere"),
        (["text_encoder.dim=8", "backbone.unet.cross_attention_dim=12"], "text_encoder gives 8 channels"),
        (["processor.channels=[4,8]"], "one width per halving"),
        (
            ["optimizer.lr=-1"],
            r"optimizer \(torch.optim.AdamW\), or its schedule, cannot be made: Invalid learning rate",
        ),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true takes a GPU; on a CPU train in bf16-mixed"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed takes a GPU"),
        (["trainer.max_steps=0"], "trainer.max_steps=0 trains nothing"),
        (["+trainer.limit_train_batches=0.0"], "trainer.limit_train_batches=0 trains nothing"),
        (["+trainer.fast_dev_run=true"], "trainer.fast_dev_run keeps nothing; for a trial set trainer.max_steps=1"),
        (["workers=-1"], "workers: -1 is no whole number from 0"),
        (["+metric.ms._target_=sspir.metrics.MSSSIM"], "set photos cannot be measured by ms, which ~metric.ms"),
        (
            ["+metric.own={_target_:torchmetrics.MeanSquaredError,num_outputs:3}"],
            "set photos cannot be measured by own, .* MeanSquaredError does not give an image one number",
        ),
        (["~metric.psnr_y", "~metric.ssim_y", "~metric.lpips"], "psnr_y is not validated; no metric can be measured"),
        (["callbacks.nan.limit=0"], "callbacks.nan.limit: 0 is no whole number from 1"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches: 0 is no whole number from 1"),
        (["trainer.val_check_interval=0"], "val_check_interval=0 is no interval"),
        (["+optimizer.lrr=1"], "There is no setting optimizer.lrr, but optimizer.lr"),
        (["optimizer.lr=high"], "optimizer.lr: 'high' is no number"),
        (
            ["callbacks.panels=3", "metric.psnr_y=null"],
            "callbacks.panels=3 names no class.*\n.*metric.psnr_y=None names",
        ),
        (
            ["+metric.own={_target_:math.isqrt,_partial_:true}"],
            "metric.own is a .*; derive its class from",
        ),
        (["callbacks.panels.count=-1"], "callbacks.panels.count: -1 is no whole number"),
        (["init_skip=[vae]"], "init_skip names weights of another model, and init names none"),
        (["processor.front_features=0"], "residual needs a Processor with a front"),
        (
            ["trainer.max_steps=-1", "trainer.max_epochs=1", "schedule.num_training_steps=${trainer.max_steps}"],
            "num_training_steps=-1 is no length of a cosine; give trainer.max_steps, .*optimizer=adamw",
        ),
        (
            ["noise_schedule.prediction_type=epsilon", "+noise_schedule.rescale_betas_zero_snr=true"],
            "noise_schedule holds no signal.*prediction_type to v_prediction or sample",
        ),
        (["schedule.num_warmup_steps=-1"], "schedule.num_warmup_steps: -1 is no whole number from 0"),
        (["sampler.steps=400", "sampler.start=300"], "400 steps do not fit below start=300"),
        ([*ONE_STEP, "sampler.start=1000"], "start=1000 must lie between 1 and 999"),
        (["sampler=dpmpp", "+sampler.options.solver_type=huen"], "sampler.options=.*huen is not implemented"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    overrides: list[str], sentence: str, photo_folder: Path, tmp_path: Path
) -> None:
    from hydra.errors import InstantiationException

    with pytest.raises((UserError, InstantiationException)) as error:
        tiny_run(tmp_path / "run", photo_folder, *overrides)
    told = error.value.__cause__ if isinstance(error.value, InstantiationException) else error.value
    assert isinstance(told, UserError)
    assert re.search(sentence, str(told)), told
    assert not any(tmp_path.rglob("*.ckpt"))


def test_a_schedule_for_a_part_that_nothing_trains_is_said(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    once = ["loss.rgb=0", "loss.frequency=0", "trainer.max_steps=1", "trainer.limit_val_batches=0"]
    tiny_run(tmp_path / "run", photo_folder, *once)
    assert "for which the rate comes to 0 at step 2; set module.structure_steps=0." in caplog.text


def test_gradients_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=2")
    before = find_checkpoint(tmp_path / "run").read_bytes()
    monkeypatch.setattr(RestorationLoss, "structure", lambda self, images, hq: {"rgb": images[-1].sum() * float("nan")})
    with pytest.raises(UserError, match=r"3 steps in a row .* with the images \d.png"):
        tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=9", "checkpoint_every=100")
    assert find_checkpoint(tmp_path / "run").read_bytes() == before


def test_a_run_that_cannot_be_measured_is_not_finished(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has made 4 steps, but its last val/psnr_y is nan: .* a lower optimizer.lr"):
        tiny_run(tmp_path / "run", photo_folder, "optimizer.lr=1e30")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_another_configuration_does_not_pass_for_the_run(finished: Path, photo_folder: Path) -> None:
    with pytest.raises(UserError, match=r"loss.rgb was 1.0, now 0.5\); name this one by variant=NAME"):
        tiny_run(finished, photo_folder, "loss.rgb=0.5")


def test_one_broken_step_is_left_out(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = RestorationLoss.structure
    calls = iter(range(100))

    def broken_once(self: RestorationLoss, images: list, hq: torch.Tensor) -> dict[str, torch.Tensor]:
        scale = float("nan") if next(calls) == 1 else 1.0
        return {name: value * scale for name, value in structure(self, images, hq).items()}

    monkeypatch.setattr(RestorationLoss, "structure", broken_once)
    tiny_run(tmp_path / "run", photo_folder)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("skipped_steps", 0) for line in lines) == 1
    assert all(value.isfinite().all() for value in load_checkpoint(find_checkpoint(tmp_path / "run"))["ema"].values())


def test_validations_and_rates_count_optimizer_steps(photo_folder: Path, tmp_path: Path) -> None:
    bar = "callbacks.progress={_target_: sspir.training.StepProgress}"  # which trainer.enable_progress_bar=false hides
    accumulated = [bar, "batch_size=1", "data.passes=2", "trainer.accumulate_grad_batches=2", "trainer.max_steps=3"]
    tiny_run(tmp_path / "run", photo_folder, *accumulated, "trainer.val_check_interval=2")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/psnr_y" in line] == [2, 3]  # the last one always
    assert [line["step"] for line in lines if "lr-AdamW" in line] == [1, 2, 3]
    assert "3 of 2 images" in card(tmp_path / "run", "last")


def test_the_losses_of_a_step_are_those_of_all_its_batches(photo_folder: Path, tmp_path: Path) -> None:
    told = [
        tiny_run(
            tmp_path / str(size), photo_folder, f"batch_size={size}", f"trainer.accumulate_grad_batches={2 // size}",
            "trainer.max_steps=2", "trainer.limit_val_batches=0",
        )
        for size in (2, 1)
    ]  # fmt: skip
    assert {"loss/total", "loss/rgb", "loss/frequency"} <= told[0].keys()
    for name in (name for name in told[0] if name.startswith("loss/")):
        assert told[0][name] == pytest.approx(told[1][name], rel=1e-4), name


@pytest.mark.thorough
def test_a_run_and_its_continuation_warn_of_nothing_that_is_so_on_purpose(photo_folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for steps in (1, 2):
            tiny_run(tmp_path / "run", photo_folder, f"trainer.max_steps={steps}", "trainer.accelerator=cpu")
        warnings.warn("others stay", stacklevel=1)
    assert [str(each.message) for each in told if "lightning" in each.filename] == []
    assert str(told[-1].message) == "others stay"


@pytest.mark.thorough
def test_an_epoch_ends_with_a_step_whatever_is_accumulated(photo_folder: Path, tmp_path: Path) -> None:
    """Three photos make one step of two batches: by the epoch's third, validations would come amid a step."""
    changes = ["batch_size=1", "data.passes=1", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=1"]
    tiny_run(tmp_path / "run", photo_folder, *changes, "trainer.max_steps=4")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val/psnr_y" in row] == [1, 2, 3, 4]
    with pytest.raises(
        UserError, match="An epoch of 3 photos does not fill the batches of one step, 4 of 1 on each of 1"
    ):
        tiny_run(tmp_path / "other", photo_folder, *changes, "trainer.accumulate_grad_batches=4")


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_made(photo_folder: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=r"trainer\.accelerator=gpu, but PyTorch sees no such GPU .* set trainer=cpu"):
        tiny_run(tmp_path / "run", photo_folder, "trainer.accelerator=gpu")
    assert not (tmp_path / "run").exists()


class Count(FolderMetric):
    """Of pictures in the first folder, less those in the second."""

    higher_is_better = True

    def score_folders(self, preds: Path, target: Path) -> float:
        return float(10 + len(list(preds.iterdir())) - len(list(target.iterdir())))


def test_what_compares_folders_is_left_out_of_a_training(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = "+metric.count._target_=tests.training.test_fit.Count"
    done = tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=2", count)
    assert "val/psnr_y" in done
    assert "count is not measured: it compares whole folders" in caplog.text

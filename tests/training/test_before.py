"""Runs recorded before the U-Net was a node, under the names of then, and runs that are repeated with changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from sspir.__main__ import main
from sspir.config.compose import compose_config, modern
from sspir.config.trust import composed, read_record
from sspir.errors import UserError
from sspir.files import led
from sspir.moved import present_config
from sspir.report.runs import read_settings
from sspir.report.settings import differing
from sspir.training.checkpoint import load_checkpoint
from sspir.training.fit import train
from sspir.training.history import read_history
from sspir.training.module import RestorationModule
from sspir.training.repeat import repetition
from sspir.training.resume import finished
from sspir.training.run import COMPOSED, CONFIG, METRICS, find_checkpoint
from tests.runs import tiny_config, tiny_run

RECORD = Path(__file__).parents[1] / "before" / CONFIG
SCRATCH = "sspir.models.controlled_unet.ControlledUNet.from_scratch"
LOADED = "sspir.models.controlled_unet.ControlledUNet.from_stable_diffusion"


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("before") / "now"
    tiny_run(folder, photo_folder)
    return folder


@pytest.fixture(scope="module")
def before(now: Path, photo_folder: Path) -> Path:
    """The same run with the record that a version of before wrote of it."""
    folder = Path(shutil.copytree(now, now.with_name("before")))
    (folder / COMPOSED).unlink()
    history = [{**line, "step": line["step"] - 1} for line in read_history(folder / METRICS)]  # counted from 0
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in history))
    record: Any = OmegaConf.to_container(OmegaConf.load(RECORD))
    record = led(led(record, "RUN", str(folder)), "PHOTOS", str(photo_folder))
    OmegaConf.save(record, folder / CONFIG)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        torch.save(torch.load(path, weights_only=True) | {"config": record}, path)
    return folder


@pytest.mark.thorough
def test_it_is_the_same_run(before: Path, now: Path, photo_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert SCRATCH in (before / CONFIG).read_text()
    assert finished(before, tiny_config(before, photo_folder))
    assert "other settings" not in caplog.text
    assert differing([read_settings(folder) for folder in (before, now)]) == []
    old, new = (RestorationModule.from_run(folder).state_dict() for folder in (before, now))
    assert all(torch.equal(value, new[key]) for key, value in old.items())


@pytest.mark.thorough
def test_it_goes_on_bit_for_bit(before: Path, now: Path, photo_folder: Path, tmp_path: Path) -> None:
    ends, steps = [], []
    for folder in (before, now):
        copied = Path(shutil.copytree(folder, tmp_path / folder.name))
        tiny_run(copied, photo_folder, "trainer.max_steps=5")
        ends.append(load_checkpoint(find_checkpoint(copied)))
        steps.append([line["step"] for line in read_history(copied / METRICS)])
    assert steps[0] == steps[1]
    assert set(steps[0]) == {1, 2, 3, 4, 5}
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, ends[1][part][key]) for key, value in ends[0][part].items()), part


def test_a_repetition_follows_where_the_record_holds_copies(before: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    changes = ["folder=again", "optimizer.lr=0.5", "processor.front_blocks=2", "seed=3"]
    changed = repetition(before, [*changes, "trainer.max_steps=9", "checkpoint_every=5"])
    assert changed.schedule.num_training_steps == changed.module.schedule.num_training_steps == 9
    assert changed.callbacks.last.every_n_train_steps == 5
    assert changed.module.optimizer.lr == 0.5
    assert changed.module.backbone.processor.front_blocks == 2
    assert changed.data.seed == changed.module.seed == 3
    assert changed.callbacks.last.dirpath == "again/checkpoints"
    assert changed.module.backbone.train_unet
    assert f"has no {COMPOSED}" in caplog.text


def test_a_repetition_follows_what_was_composed(tmp_path: Path) -> None:
    choices = [
        "experiments=ssp_ir",
        "optimizer=adamw_cosine",
        "callbacks=early_stopping",
        "folder=first",
        "logger=jsonl",
    ]
    (tmp_path / COMPOSED).write_text(OmegaConf.to_yaml(composed(compose_config("train", choices))))
    changes = [
        "folder=again",
        "checkpoint_every=7",
        "trainer.max_steps=70",
        "backbone.path=/m",
        "scale=2",
        "monitor=ssim_y",
    ]
    changed = repetition(tmp_path, changes)
    assert changed.callbacks.last.every_n_train_steps == 7
    assert changed.schedule.num_training_steps == changed.module.schedule.num_training_steps == 70
    assert {changed.backbone.unet.path, changed.module.vae.path, changed.text_encoder.path} == {"/m"}
    assert (changed.module.scale, changed.degradation.scale) == (2, 2)
    assert changed.callbacks.early_stopping.monitor == "ssim_y"
    assert changed.logger.jsonl.folder == "again"
    (tmp_path / COMPOSED).write_text(OmegaConf.to_yaml(composed(changed)))
    assert repetition(tmp_path, ["folder=third", "monitor=psnr_y"]).callbacks.early_stopping.monitor == "psnr_y"
    with pytest.raises(UserError, match="folder=SOMEWHERE"):
        repetition(tmp_path, ["folder=again"])


@pytest.mark.thorough
def test_what_was_composed_is_what_ran(now: Path) -> None:
    resolved = OmegaConf.to_container(read_record(now / COMPOSED, may_refer=True), resolve=True)
    assert resolved == OmegaConf.to_container(read_record(now / CONFIG))


@pytest.mark.parametrize("given", ["backbone.path=/mine", "backbone.unet.path=/mine"])
def test_short_settings_are_taken_wherever_people_write_them(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {
        "backbone": {"path": "/theirs", "revision": "abc"},
        "captioner": {"_target_": "sspir.captioners.VisionLanguageCaptioner", "path": "${backbone.path}/captioner"},
    }
    (tmp_path / "experiments").mkdir()
    text = "# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(own))
    (tmp_path / "experiments" / "mine.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSPIR_PATH", str(tmp_path))
        of_file = compose_config("train", ["experiments=mine"])
        typed = compose_config("train", ["experiments=mine", given])
        assert main(["train", "experiments=mine", given, "--cfg", "job"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    for config, path in ((of_file, "/theirs"), (typed, "/mine")):
        places = [config.backbone.unet, config.vae, config.noise_schedule, config.text_encoder]
        assert [(node.path, node.revision) for node in places] == [(path, "abc")] * 4
        assert config.captioner.path == f"{path}/captioner"
        assert "path" not in config.backbone
    assert shown == typed


def test_old_names_of_classes_are_told_once_with_the_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    own = OmegaConf.create({"loss": {"_target_": "sspir.losses.RestorationLoss", "rgb": 1}, "scale": 4})
    for _ in range(2):
        assert modern(own).loss == {"_target_": "sspir.training.losses.RestorationLoss", "rgb": 1}
    (told,) = caplog.messages
    assert told.startswith(
        "The _target_ sspir.losses.RestorationLoss is now sspir.training.losses.RestorationLoss: write"
    )


def test_backbones_of_people_s_own_keep_their_settings() -> None:
    own = OmegaConf.create({"backbone": {"_target_": "own.Net", "path": "/a"}, "vae": {"path": "${backbone.path}"}})
    assert modern(own) is own


def test_old_constructors_become_a_node() -> None:
    settings = {"processor": "${processor}", "dtype": "bfloat16", "identity": False}
    old = {"_target_": LOADED, "path": "/a", "revision": None, **settings}
    unet = {"_target_": "sspir.pretrained.load_unet", "path": "/a", "revision": None}
    new = {"_target_": "sspir.models.ControlledUNet.from_unet", **settings, "unet": unet}
    made = present_config({"backbone": old, "module": {"backbone": old, "seed": 0}})
    objective = {"_target_": "sspir.objectives.Diffusion"}
    assert made == {
        "objective": objective,
        "backbone": new,
        "module": {"objective": objective, "backbone": new, "seed": 0},
    }
    assert present_config(made) == made


def test_a_crop_of_every_set_of_a_mixture_is_the_mixture_s() -> None:
    crop = {"_target_": "sspir.data.Crop", "size": 512}
    sets = [{"_target_": "sspir.data.ImageFolder", "roots": root} for root in "ab"]
    train = {"_target_": "sspir.data.Mixture", "weights": [1, 4]}
    old = {"train": {**train, "datasets": [{**each, "crop": crop} for each in sets]}, "crop": crop}
    assert present_config({"dataset": old}) == {"dataset": {"train": {**train, "crop": crop, "datasets": sets}}}


def test_shipped_in_a_record_is_the_model_of_then_and_is_recorded_whole_now(now: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(now / CONFIG)
    assert config.init is None
    for written, read in (("shipped", "shipped/tiny"), ("shipped/small", "shipped/small"), (None, None)):
        (tmp_path / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.merge(config, {"init": written})))
        assert read_record(tmp_path / CONFIG).init == read
    asked = compose_config("train", ["init=shipped", f"folder={tmp_path / 'run'}", "seed=0", "backbone.path=nowhere"])
    with pytest.raises(UserError):  # before anything is read
        train(asked)
    assert asked.init == "shipped/small"

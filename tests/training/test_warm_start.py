"""A training that begins with the weights of another model."""

import json
from pathlib import Path

import pytest
import torch

from sspir.errors import UserError
from sspir.training.checkpoint import load_checkpoint
from sspir.training.run import build_module, find_checkpoint, load_run
from sspir.training.warm_start import warm_start
from sspir.weights.export import export
from tests.runs import tiny_config, tiny_run

QUICK = ["trainer.max_steps=1", "trainer.limit_val_batches=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run") / "first"
    tiny_run(folder, photo_folder, "trainer.max_steps=2", "trainer.limit_val_batches=0")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_run(folder).state_dict()


@pytest.mark.slow
def test_a_run_and_its_export_begin_a_training_of_another_kind(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "exported", dtype="float32")
    still = ["optimizer.lr=0", "optimizer.weight_decay=0", "objective=one_step", "objective.terms.lpips.weight=0"]
    for source in (run, tmp_path / "exported"):
        folder = tmp_path / f"from_{source.name}"
        changes = [*QUICK, *still, "objective.adversary=null", "sampler.steps=1", f"init={source}"]
        tiny_run(folder, photo_folder, *changes)
        before, after = weights(run), weights(folder)
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        state = load_checkpoint(find_checkpoint(folder))
        assert state["global_step"] == 1
        told = json.loads((folder / "environment.json").read_text())["init"]
        assert told["source"] == str(source)
        assert len(told["weights"]) == 16
        again = tiny_run(folder, photo_folder, *changes, "trainer.max_steps=2")  # goes on from its own checkpoint
        assert again["step"] == 2
        assert json.loads((folder / "environment.json").read_text())["init"] == told


@pytest.mark.thorough
def test_what_does_not_fit_is_listed_and_refused_unless_it_is_named(run: Path, photo_folder: Path) -> None:
    config = tiny_config(run.parent / "other", photo_folder, "refine.dim=8", "backbone.pixel_attention=[]")
    with pytest.raises(UserError) as told:
        warm_start(build_module(config), str(run))
    sentence = str(told.value)
    assert "backbone.controlnet_image." in sentence
    assert "and " in sentence
    assert "init_skip=[PATTERN,...]" in sentence
    module = build_module(config)
    with pytest.raises(UserError, match=r"init_skip: backbon\.\* fits nothing; there are backbone\.unet\.\*, "):
        warm_start(module, str(run), ["refine.*", "backbon.*"])
    skip = ["backbone.*_image.*", "backbone.unet_pixel.*", "refine.*"]
    told = warm_start(module, str(run), skip)
    assert {key.split(".")[0] for key in told["left_out"]} == {"backbone", "refine"}
    before, after = weights(run), module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("backbone.unet."))
    with pytest.raises(UserError, match=r"refine.* \(\(\d"):
        warm_start(build_module(config), str(run), skip[:-1])


@pytest.mark.thorough
def test_frozen_networks_must_be_the_same(run: Path, photo_folder: Path) -> None:
    config = tiny_config(run.parent / "other", photo_folder, "image_encoder.seed=1")
    with pytest.raises(UserError, match=r"image_encoder \(frozen, with other weights\)"):
        warm_start(build_module(config), str(run))
    assert warm_start(build_module(config), str(run), ["image_encoder"])["left_out"] == ["image_encoder"]


def test_a_folder_without_weights_is_told(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        tiny_run(tmp_path / "run", photo_folder, f"init={tmp_path}", *QUICK)


@pytest.mark.thorough
def test_weights_can_be_kept_still(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    changes = [*QUICK, f"init={run}", "module.structure_steps=0", "schedule=null"]
    tiny_run(folder, photo_folder, *changes, "module.freeze=[backbone.processor.front.*]")
    before, after = weights(run), weights(folder)
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed
    assert not [key for key in changed if ".front." in key]
    first = [*QUICK, f"init={run}", "module.structure_steps=2", "schedule=null"]
    tiny_run(tmp_path / "first", photo_folder, *first, "module.freeze=[backbone.processor.front.*bias]")
    after = weights(tmp_path / "first")
    fronts = {key: torch.equal(value, after[key]) for key, value in before.items() if ".front." in key}
    assert fronts == {key: key.endswith("bias") for key in fronts}
    with pytest.raises(UserError, match=r"module\.freeze keeps the Processor's front as it is"):
        tiny_run(tmp_path / "none", photo_folder, *first, "module.freeze=[backbone.processor.front.*]")
    with pytest.raises(UserError, match=r"module\.freeze: nothing fits no trained weight"):
        tiny_run(tmp_path / "other", photo_folder, *changes, "module.freeze=[nothing]")

"""Two processes are one with twice the batch, whether each has all weights or a share: on gloo, and on two GPUs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sspir.doctor import needs as doctor
from sspir.errors import UserError
from sspir.objectives.frozen import WHOLE
from sspir.training.checkpoint import load_checkpoint
from sspir.training.fit import _train, train
from sspir.training.run import find_checkpoint
from tests.devices import ACCELERATORS, DEVICES, TOLERANCE
from tests.needs import needs
from tests.processes import run_ranks
from tests.runs import CONSISTENCY, ONE_STEP, OVERRIDES, SCORE, tiny_config, tiny_run

PLAIN = [
    "optimizer._target_=torch.optim.SGD",
    "~optimizer.betas",
    "+optimizer.momentum=0.9",
    "optimizer.lr=0.1",
    "schedule=null",
]


def validation_sets(photos: Path) -> list[str]:
    """A set that two processes cannot share evenly, and one that is smaller than they are many."""
    shutil.copytree(photos / "val", photos / "one", dirs_exist_ok=True)
    (photos / "one" / "1.png").unlink(missing_ok=True)
    sets = {
        name: f"{{_target_:sspir.data.ImageFolder,roots:{photos}/{folder},crop:{{_target_:sspir.data.Crop,size:32}}}}"
        for name, folder in (("three", "train"), ("one", "one"))
    }
    return ["~dataset.validation.photos", *(f"+dataset.validation.{name}={node}" for name, node in sets.items())]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu(2))])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def settings(device: str, photos: Path, processes: int) -> list[str]:
    return [
        *PLAIN, *validation_sets(photos), f"batch_size={2 // processes}", f"trainer.devices={processes}",
        f"trainer.accelerator={ACCELERATORS[device]}", "trainer.precision=32-true",
        "trainer.accumulate_grad_batches=2", "trainer.max_steps=3", "trainer.gradient_clip_val=0.5",
        "module.structure_steps=1",  # a step in which the ControlNet has no gradients
        "matmul_precision=highest",
    ]  # fmt: skip


def launch(device: str, folder: Path, photos: Path, *changes: str) -> None:
    arguments = ["train", *OVERRIDES, f"folder={folder}", f"dataset.train.root={photos}"]
    arguments += [*settings(device, photos, 2), *changes]
    if device == "cpu":
        run_ranks(2, *arguments, log=folder.with_suffix(".log"))
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "sspir"]
    environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}  # float32 as a CPU knows it; read as libraries are loaded
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def one(device: str, tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        tiny_run(folder, photo_folder, *settings(device, photo_folder, 1))
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("trainer", "stopped"),
    [("ddp", None), *(pytest.param("fsdp", stopped, marks=pytest.mark.slow) for stopped in (None, 2))],
)
def test_two_processes_are_one_with_twice_the_batch(
    device: str, trainer: str, stopped: int | None, one: Path, photo_folder: Path, tmp_path: Path
) -> None:
    two = tmp_path / "two"
    if stopped:
        launch(device, two, photo_folder, f"trainer={trainer}", f"trainer.max_steps={stopped}")
    launch(device, two, photo_folder, f"trainer={trainer}")
    tolerance = 1e-6 if device == "cpu" else TOLERANCE
    ours, theirs = (load_checkpoint(find_checkpoint(folder)) for folder in (two, one))
    for part in ("state_dict", "ema"):
        assert ours[part].keys() == theirs[part].keys()
        for key, value in theirs[part].items():
            assert torch.allclose(ours[part][key], value, atol=tolerance), f"{part} {key}"
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (two, one)]
    assert summaries[0].keys() == summaries[1].keys() >= {"val/psnr_y", "val/three/psnr_y", "bicubic/one/psnr_y"}
    for name in summaries[0]:
        exact = name.startswith("bicubic/")  # the same pictures whatever the weights
        if exact or name.startswith(("val/", "loss/")):
            assert summaries[0][name] == pytest.approx(summaries[1][name], abs=tolerance if exact else 1e-3), name
    panels = [sorted(path.relative_to(folder) for path in folder.rglob("panels/**/*.png")) for folder in (two, one)]
    assert panels[0] == panels[1]
    assert {path.name.partition("-step")[0] for path in panels[0]} == {"0", "1", "2"}
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (two, one)]
    assert stopped or len(lines[0]) == len(lines[1])  # one record, not two; a stop adds a validation
    assert (two / "train.log").read_text().count("parameters trained") == (2 if stopped else 1)


@pytest.mark.thorough
def test_two_processes_train_a_discriminator_as_one(device: str, photo_folder: Path, tmp_path: Path) -> None:
    sgd = "{_target_:torch.optim.SGD,_partial_:true,lr:0.1}"
    changes = [*ONE_STEP, "~objective.adversary.optimizer", f"+objective.adversary.optimizer={sgd}"]
    changes = [*(each for each in changes if "optimizer.lr" not in each), "trainer.limit_val_batches=0"]
    tiny_run(tmp_path / "one", photo_folder, *settings(device, photo_folder, 1), *changes)
    launch(device, tmp_path / "two", photo_folder, *changes, "trainer=ddp")
    tolerance = 1e-6 if device == "cpu" else TOLERANCE
    ours, theirs = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("two", "one"))
    pairs = [(ours[part], theirs[part]) for part in ("state_dict", "ema")]
    for mine, other in [*pairs, (ours["objective"]["discriminator"], theirs["objective"]["discriminator"])]:
        assert mine.keys() == other.keys()
        for key, value in other.items():
            assert torch.allclose(mine[key], value, atol=tolerance), key


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SCORE, CONSISTENCY], ids=["score_distillation", "consistency"])
def test_two_processes_distil_as_one(device: str, changes: list[str], photo_folder: Path, tmp_path: Path) -> None:
    needs("peft", "lora")
    sgd = "{_target_:torch.optim.SGD,_partial_:true,lr:0.1}"
    tiny_run(tmp_path / "base", photo_folder, "module.structure_steps=0", "data.passes=4", "trainer.max_steps=2")
    given = [each for each in changes if "optimizer" not in each]
    given += ["~objective.optimizer", f"+objective.optimizer={sgd}"] if changes is SCORE else []
    given += [f"init={tmp_path / 'base'}", "module.structure_steps=0", "trainer.limit_val_batches=0"]
    tiny_run(tmp_path / "one", photo_folder, *settings(device, photo_folder, 1), *given)
    launch(device, tmp_path / "two", photo_folder, *given, "trainer=ddp")
    tolerance = 1e-6 if device == "cpu" else TOLERANCE
    ours, theirs = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("two", "one"))
    frozen = ours["objective"]["frozen"], theirs["objective"]["frozen"]
    for mine, other in [*((ours[part], theirs[part]) for part in ("state_dict", "ema")), frozen]:
        assert mine.keys() == other.keys()
        for key, value in other.items():
            assert torch.allclose(mine[key], value, atol=tolerance), key
    assert changes is CONSISTENCY or any("lora_B" in key and value.any() for key, value in frozen[0].items())


ALONE = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true"]


def test_what_keeps_a_copy_is_not_spread_over_processes(photo_folder: Path, tmp_path: Path) -> None:
    for changes in (CONSISTENCY, [*SCORE, "objective.kind=csd"]):
        config = tiny_config(tmp_path / "run", photo_folder, *changes, "init=shipped/tiny", *ALONE)
        with pytest.raises(UserError, match="take trainer=ddp"):
            train(config)
        assert not (tmp_path / "run").exists()
        assert ("configuration", [WHOLE]) in doctor.needs(config)


@pytest.mark.thorough
def test_a_network_that_is_spread_over_processes_is_not_copied(photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "base", photo_folder, "module.structure_steps=0", "data.passes=4", "trainer.max_steps=2")
    config = tiny_config(tmp_path / "run", photo_folder, *CONSISTENCY, f"init={tmp_path / 'base'}", *ALONE)
    (tmp_path / "run").mkdir()
    try:
        with pytest.raises(UserError, match="take trainer=ddp"):
            _train(tmp_path / "run", config, tmp_path / "run", [])  # whatever the configuration says
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_processes_train_adapters_as_one(
    device: str, trainer: str, one: Path, photo_folder: Path, tmp_path: Path
) -> None:
    """Frozen and trained weights share their layers; ddp goes on from a checkpoint that holds the base."""
    needs("peft", "lora")
    changes = ["backbone.lora={rank: 2, targets: [to_q, conv1]}", f"init={one}", "module.structure_steps=0"]
    changes.append("trainer.limit_val_batches=0")
    tiny_run(tmp_path / "one", photo_folder, *settings(device, photo_folder, 1), *changes)
    for steps in (2, 3) if trainer == "ddp" else (3,):
        launch(device, tmp_path / "two", photo_folder, *changes, f"trainer={trainer}", f"trainer.max_steps={steps}")
    ours, theirs = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("two", "one"))
    assert ours["brought"] == theirs["brought"] == ["backbone.controlnet", "backbone.unet"]
    assert any("lora_B" in key and value.any() for key, value in ours["ema"].items())
    for part in ("state_dict", "ema"):
        assert ours[part].keys() == theirs[part].keys()
        for key, value in theirs[part].items():
            tolerance = 1e-6 if device == "cpu" else TOLERANCE
            assert torch.allclose(ours[part][key], value, atol=tolerance), f"{part} {key}"


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_shared_weights_go_on_from_their_checkpoint(
    device: str, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # Adam makes a whole step of a gradient that is nothing but rounding; with this eps it makes none
    steady = "+optimizer.eps=1e-3"
    where = [f"trainer.accelerator={ACCELERATORS[device]}", "trainer.devices=1", "trainer.precision=32-true"]
    alone = [steady, "trainer=fsdp", *where]
    try:
        tiny_run(tmp_path / "shared", photo_folder, *alone, "trainer.max_steps=2")
        tiny_run(tmp_path / "shared", photo_folder, *alone, "trainer.max_steps=3")
    finally:
        torch.distributed.destroy_process_group()
    tiny_run(tmp_path / "plain", photo_folder, steady, "trainer.max_steps=3")
    ours, theirs = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("shared", "plain"))
    for part in ("state_dict", "ema"):
        assert ours[part].keys() == theirs[part].keys()
        for key, value in theirs[part].items():
            assert torch.allclose(ours[part][key].cpu(), value, atol=1e-5 if device == "cpu" else TOLERANCE), (
                f"{part} {key}"
            )

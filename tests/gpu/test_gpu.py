"""What a GPU computes is what a CPU computes; each body runs on both, where its claim has a meaning on a CPU."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from diffusers.models.attention_processor import Attention
from hydra.utils import instantiate
from pytorch_lightning.plugins import MixedPrecision

from sspir.config.compose import config_root, load_choice
from sspir.device import Replays, replayed, replaying
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.checkpoint import load_checkpoint
from sspir.training.fit import train
from sspir.training.run import build_module, find_checkpoint
from sspir.training.updates import SkipNaN
from tests.devices import ACCELERATORS, DEVICES, GPU
from tests.needs import needs
from tests.pipelines import photo, tiny_pipeline
from tests.runs import CONSISTENCY, ONE_STEP, SCORE, tiny_config, tiny_run

BOTH = [pytest.param("cpu", marks=pytest.mark.slow), GPU]  # where the CPU repeats what other tests claim
SAMPLERS = sorted(path.stem for path in (config_root() / "conf" / "sampler").glob("*.yaml"))


@pytest.fixture(autouse=True)
def without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32 as a CPU knows it: by default a GPU rounds their inputs to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def pipeline_on(device: str) -> RestorationPipeline:
    pipeline = copy.deepcopy(tiny_pipeline()).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def restored(pipeline: RestorationPipeline, **changes: Any) -> torch.Tensor:
    settings = {"steps": 2, "guidance": 3.0, **changes}
    image = pipeline(photo(), "a house", seed=3, output_type="pt", **settings).images[0]
    assert image.device.type == pipeline._execution_device.type
    return image.float().cpu()


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss/total"] for line in lines if "loss/total" in line}


def trained(folder: Path, photos: Path, device: str, precision: str = "32-true", *changes: str) -> Path:
    where = [
        f"trainer.accelerator={ACCELERATORS[device]}",
        f"trainer.precision={precision}",
        "matmul_precision=highest",
    ]
    tiny_run(folder, photos, *where, "module.structure_steps=1", "trainer.max_steps=3", *changes)
    return folder


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize(
    "changes", [{}, {"tile": 8, "overlap": 2, "tile_tokens": "tile"}, {"region": 64}, {"fidelity": 0.5}]
)
def test_a_photo_is_restored_as_on_a_cpu(device: str, changes: dict) -> None:
    ours, theirs = (restored(pipeline_on(each), **changes) for each in (device, "cpu"))
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_gives_what_it_gives_on_a_cpu(device: str, name: str) -> None:
    preset = instantiate(load_choice("sampler", name))
    changes = {field: getattr(preset, field) for field in preset.OF_THE_SOLVER} | {"steps": 3}
    ours, theirs = (restored(pipeline_on(each), **changes) for each in (device, "cpu"))
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("device", BOTH)
def test_training_goes_as_on_a_cpu_and_is_continued_on_one(device: str, photo_folder: Path, tmp_path: Path) -> None:
    ours, theirs = (
        trained(tmp_path / name, photo_folder, each) for name, each in (("ours", device), ("theirs", "cpu"))
    )
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-3)
    weights, wanted = (load_checkpoint(find_checkpoint(run)) for run in (ours, theirs))
    for part in ("state_dict", "ema"):
        # Adam makes a whole step of a gradient that is nothing but rounding: three of those at most
        assert all((value - weights[part][key].cpu()).abs().max() < 1e-3 for key, value in wanted[part].items()), part
    trained(ours, photo_folder, "cpu", "32-true", "trainer.max_steps=4")
    assert losses(ours).keys() == {1, 2, 3, 4}


@pytest.mark.parametrize("device", BOTH)
def test_training_in_bfloat16_is_near_to_float32(device: str, photo_folder: Path, tmp_path: Path) -> None:
    half = trained(tmp_path / "half", photo_folder, device, "bf16-mixed")
    full = trained(tmp_path / "full", photo_folder, "cpu")
    assert losses(half) == pytest.approx(losses(full), rel=0.05)
    assert all(value.isfinite().all() for value in load_checkpoint(find_checkpoint(half))["ema"].values())


@pytest.mark.parametrize("device", DEVICES)
def test_a_denoiser_in_bfloat16_is_near_to_float32(device: str) -> None:
    half, full = restored(pipeline_on(device).in_dtype("bfloat16")), restored(pipeline_on(device))
    assert 0 < (half - full).abs().mean() < 0.02


@pytest.mark.parametrize("device", DEVICES)
def test_training_in_float16_finds_its_scale_and_learns(device: str, photo_folder: Path, tmp_path: Path) -> None:
    """Lightning takes bfloat16 where fp16 is asked for on a CPU, so the scaler is handed in."""
    config = tiny_config(tmp_path, photo_folder, "module.structure_steps=0")
    module, data, broken = build_module(config), instantiate(config.data), SkipNaN()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    precision = MixedPrecision("16-mixed", device, torch.amp.GradScaler(device, init_scale=2.0**8))
    pl.Trainer(
        accelerator=ACCELERATORS[device], devices=1, plugins=[precision], callbacks=[broken], max_steps=3,
        gradient_clip_val=1.0, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    ).fit(module, data)  # fmt: skip
    assert (broken.skipped, broken.overflowed) == (0, 0)
    after = {key: value.cpu() for key, value in module.state_dict().items()}
    assert all(value.isfinite().all() for value in after.values())
    changed = {key.split(".")[1] for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed >= {"unet", "controlnet", "processor"}
    assert precision.scaler.get_scale() == 2.0**8


@pytest.mark.gpu(1)
def test_training_in_float16_is_a_setting(photo_folder: Path, tmp_path: Path) -> None:
    """All of a run, the scaler's scale in its checkpoint too."""
    run = trained(tmp_path / "run", photo_folder, "cuda", "16-mixed", "trainer.max_steps=2")
    trained(run, photo_folder, "cuda", "16-mixed")
    checkpoint = load_checkpoint(find_checkpoint(run))
    assert all(value.isfinite().all() for value in checkpoint["ema"].values())
    assert checkpoint["MixedPrecision"]["scale"] >= 1


@pytest.mark.parametrize(
    ("device", "home"), [("cpu", "sspir"), pytest.param("cuda", "diffusers", marks=pytest.mark.gpu(1))]
)
def test_a_gpu_attends_by_processors_of_diffusers(device: str, home: str) -> None:
    pipeline, seen = pipeline_on(device), set()
    parts = [part for part in pipeline.backbone.modules() if isinstance(part, Attention)]
    for part in parts:
        part.register_forward_pre_hook(lambda part, _: seen.add(type(part.processor).__module__.partition(".")[0]))
    restored(pipeline)
    assert seen == {home}
    assert {type(part.processor).__module__.partition(".")[0] for part in parts} == {"diffusers"}  # put back


@pytest.mark.gpu(1)
@pytest.mark.parametrize(("dtype", "levels"), [("float32", 0), ("bfloat16", 2)])
@pytest.mark.parametrize("changes", [{}, {"guidance": 1.0, "steps": 1}, {"steps": 10}])
def test_a_photo_that_is_replayed_is_the_same_photo(dtype: str, levels: int, changes: dict) -> None:
    pipeline = pipeline_on("cuda").in_dtype(dtype)
    replayed = [restored(pipeline, **changes) for _ in range(3)]
    names = {function.__name__ for function, kept in pipeline.replays._recordings.items() if kept}
    assert names == {"predict", "structure", "encode_ids", "tokens_of", "_moments", "_decoded"}
    pipeline.replays = None
    wanted = restored(pipeline, **changes)
    for done in replayed:
        differences = ((done - wanted).abs() * 255).flatten()
        assert differences.quantile(0.999) <= levels
    assert (replayed[0] - replayed[2]).abs().max() * 255 <= levels  # the first was launched


@pytest.mark.gpu(1)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "changes",
    [[], [*ONE_STEP, "objective.adversary.weight=0.1"], [*SCORE, "init=base"], [*CONSISTENCY, "init=base"]],
)
def test_training_that_is_replayed_is_the_same_training(
    photo_folder: Path, tmp_path: Path, precision: str, changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "init=base" in changes:
        needs("peft", "lora")
        monkeypatch.chdir(tmp_path)
        trained(tmp_path / "base", photo_folder, "cpu", "32-true", "data.passes=4", "module.structure_steps=0")
    steps = ["trainer.max_steps=8", "trainer.limit_val_batches=0", "module.structure_steps=0", *changes]
    runs = [
        trained(tmp_path / capture, photo_folder, "cuda", precision, *steps, f"module.capture={capture}")
        for capture in ("true", "false")
    ]
    replayed, launched = (losses(run) for run in runs)
    assert replayed == pytest.approx(launched, rel=1e-4 if precision == "32-true" else 1e-2)
    marks = [load_checkpoint(find_checkpoint(run))["state_dict"] for run in runs]
    assert all((marks[0][key] - marks[1][key]).abs().max() < 1e-3 for key in marks[0])


class NoWait(pl.Callback):
    """Lets no step wait for the device, once all is warm."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.global_step >= 5 else "default")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu(1)
@pytest.mark.parametrize("capture", [True, False])
def test_no_training_step_waits_for_the_card(photo_folder: Path, tmp_path: Path, capture: bool) -> None:
    changes = ["trainer.max_steps=9", "trainer.log_every_n_steps=50", "trainer.limit_val_batches=0", "captioner=none"]
    changes += [f"trainer.accelerator={ACCELERATORS['cuda']}", f"module.capture={str(capture).lower()}"]
    config = tiny_config(tmp_path, photo_folder, "module.structure_steps=0", "checkpoint_every=100", *changes)
    try:
        train(config, callbacks=[NoWait()])
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Reading(torch.nn.Linear):
    @replayed
    def read(self, values: torch.Tensor) -> torch.Tensor:
        return self(values) * float(values.sum())


@pytest.mark.gpu(1)
def test_what_cannot_be_recorded_leaves_the_card_as_it_was() -> None:
    net, replays = Reading(4, 4).cuda(), Replays()
    pipeline = pipeline_on("cuda")
    wanted = restored(pipeline)
    for _ in range(3):
        with torch.no_grad(), replaying(replays, [net]):
            values = torch.ones(2, 4, device="cuda")
            assert torch.equal(net.read(values), net(values) * 8)
    assert torch.rand(3, device="cuda").isfinite().all()
    for _ in range(3):
        assert torch.equal(restored(pipeline), wanted)
    assert pipeline.replays._recordings

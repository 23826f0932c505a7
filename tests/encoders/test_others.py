"""open_clip's and DINOv2's image encoders, and what all encoders promise."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from skimage import data as photos
from transformers import BitImageProcessor, CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from sspir.encoders import CLIPImageEncoder, DINOv2ImageEncoder, OpenCLIPImageEncoder
from sspir.encoders.patch import PatchEncoder
from sspir.errors import UserError

ARRAY = photos.astronaut()[:200, 100:260].copy()
PHOTO = torch.from_numpy(ARRAY).permute(2, 0, 1)[None] / 255
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[open_clip.CLIP, Path]:
    """A whole model of open_clip and its folder, as open_clip publishes them."""
    torch.manual_seed(0)
    model = open_clip.CLIP(12, VISION, TEXT).eval()
    folder = tmp_path_factory.mktemp("openclip")
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "epoch_1.pt")
    config = {
        "model_cfg": {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": TEXT},
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model, folder


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dinov2Model, Path]:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=70, patch_size=14
    )
    model = Dinov2Model(config).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return model, folder


def test_settings_that_an_encoder_cannot_keep_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=16, layer_norm_eps=1e-2)).save_pretrained(
        tmp_path / "a"
    )
    with pytest.raises(UserError, match=r"a has layer_norm_eps=0\.01, and CLIPImageEncoder 1e-05; take another"):
        CLIPImageEncoder.from_clip(str(tmp_path / "a"), dim=16)
    Dinov2Model(Dinov2Config(**sizes, qkv_bias=False)).save_pretrained(tmp_path / "b")
    with pytest.raises(UserError, match="b has qkv_bias=False, and DINOv2ImageEncoder True; take another"):
        DINOv2ImageEncoder.from_dinov2(str(tmp_path / "b"), dim=16, input_size=16)


def assert_equal_but_rounded(ours: torch.Tensor, theirs: torch.Tensor, std: list[float]) -> None:
    """Theirs is rounded to 8 bits after rows and again after columns."""
    levels = (ours - theirs).abs() * torch.tensor(std).view(3, 1, 1) * 255
    assert levels.max() < 2
    assert levels.mean() < 0.4


@torch.no_grad()
def test_open_clip_tokens_are_the_librarys(clip: tuple[open_clip.CLIP, Path]) -> None:
    model, folder = clip
    encoder = OpenCLIPImageEncoder.from_open_clip(str(folder), dim=64, class_token=True)
    pixels = torch.randn(2, 3, 32, 32)
    inner: list[torch.Tensor] = []
    for block in model.visual.transformer.resblocks:
        block.register_forward_hook(lambda _, __, output: inner.append(output))
    model.encode_image(pixels)
    (ours,) = encoder.layers(pixels)
    assert torch.equal(ours, inner[-1])
    assert encoder(PHOTO).shape == (1, 17, 64)
    several = OpenCLIPImageEncoder.from_open_clip(str(folder), dim=128, layer=[1, -2])
    joined = torch.cat([inner[0], inner[1]], dim=-1)
    assert torch.equal(torch.cat(several.layers(pixels), dim=-1), joined)
    assert len(several.tower.transformer.resblocks) == 2  # the third is not needed
    assert several(PHOTO).shape == (1, 16, 128)


@torch.no_grad()
def test_open_clip_preprocessing_is_the_librarys(clip: tuple[open_clip.CLIP, Path]) -> None:
    encoder = OpenCLIPImageEncoder.from_open_clip(str(clip[1]), dim=64)
    theirs = image_transform(32, False, tuple(MEAN), tuple(STD), resize_mode="squash")(Image.fromarray(ARRAY))
    assert_equal_but_rounded(encoder.pixels(PHOTO)[0], theirs, STD)


@torch.no_grad()
def test_open_clip_checkpoints_of_either_kind_are_the_same(clip: tuple[open_clip.CLIP, Path]) -> None:
    whole = OpenCLIPImageEncoder.from_open_clip(str(clip[1]), dim=64)
    pickled = OpenCLIPImageEncoder.from_open_clip(str(clip[1] / "epoch_1.pt"), dim=64)
    assert torch.equal(whole(PHOTO), pickled(PHOTO))


@pytest.mark.parametrize(
    ("path", "options", "sentence"),
    [
        ("", {}, "64; set image_encoder.dim to that, not 1280"),
        ("", {"dim": 64, "layer": 4}, "3 layers, so image_encoder.layer cannot be 4"),
        ("", {"dim": 64, "layer": [1, 2]}, r"width 128 \(2 layers of 64\)"),
        ("", {"dim": 64, "layer": []}, "cannot be"),
        ("", {"dim": 768, "model": "ViT-B-32"}, "is of another model: it lacks"),
        ("", {"dim": 64, "model": "ViT-H-15"}, "none of open_clip's architectures"),
        ("", {"dim": 64, "model": "RN50"}, "no plain vision transformer"),
        ("missing", {"dim": 64}, r"\(image_encoder.path\)"),
        ("open_clip_config.json", {"dim": 64}, "cannot be read"),
    ],
)  # fmt: skip
def test_open_clip_troubles(clip: tuple[open_clip.CLIP, Path], path: str, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OpenCLIPImageEncoder.from_open_clip(str(clip[1] / path), **options)


def test_open_clip_folders_without_parts(clip: tuple[open_clip.CLIP, Path], tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes((clip[1] / "epoch_1.pt").read_bytes())
    with pytest.raises(UserError, match=r"name its architecture with image_encoder.model"):
        OpenCLIPImageEncoder.from_open_clip(str(tmp_path / "weights.pt"), dim=64)
    with pytest.raises(UserError, match=r"holds none of open_clip_model.safetensors"):
        OpenCLIPImageEncoder.from_open_clip(str(tmp_path), dim=64, model="ViT-H-14")
    with pytest.raises(UserError, match="hub cannot be reached"):
        OpenCLIPImageEncoder.from_open_clip("nobody/nothing")


@torch.no_grad()
def test_dinov2_tokens_are_the_librarys(dinov2: tuple[Dinov2Model, Path]) -> None:
    model, folder = dinov2
    encoder = DINOv2ImageEncoder.from_dinov2(str(folder), dim=16, input_size=56)
    pixels = torch.randn(2, 3, 56, 56)
    theirs = model(pixels, output_hidden_states=True)
    assert torch.equal(encoder.layers(pixels)[0], theirs.last_hidden_state)
    assert encoder(PHOTO).shape == (1, 16, 16)
    several = DINOv2ImageEncoder.from_dinov2(str(folder), dim=32, layer=[1, 3], input_size=56)
    first, last = several.layers(pixels)
    assert torch.equal(first, model.layernorm(theirs.hidden_states[1]))
    assert torch.equal(last, theirs.last_hidden_state)


@torch.no_grad()
def test_dinov2_preprocessing_is_the_librarys(dinov2: tuple[Dinov2Model, Path]) -> None:
    encoder = DINOv2ImageEncoder.from_dinov2(str(dinov2[1]), dim=16, input_size=56)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = BitImageProcessor(size={"height": 56, "width": 56}, do_center_crop=False, resample=3, **imagenet)
    theirs = processor(Image.fromarray(ARRAY), return_tensors="pt")["pixel_values"]
    assert_equal_but_rounded(encoder.pixels(PHOTO)[0], theirs[0], imagenet["image_std"])


def test_dinov2_troubles(dinov2: tuple[Dinov2Model, Path]) -> None:
    with pytest.raises(UserError, match=r"image_encoder.dim to that, not 1024"):
        DINOv2ImageEncoder.from_dinov2(str(dinov2[1]))
    with pytest.raises(UserError, match=r"no multiple of the patches' 14 pixels; take 224"):
        DINOv2ImageEncoder.from_dinov2(str(dinov2[1]), dim=16, input_size=230)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["clip", "open_clip", "dinov2"])
def test_saved_encoders_come_back_bit_for_bit(
    kind: str, dtype: str, clip: tuple[open_clip.CLIP, Path], dinov2: tuple[Dinov2Model, Path], tmp_path: Path
) -> None:
    encoder: PatchEncoder
    if kind == "open_clip":
        encoder = OpenCLIPImageEncoder.from_open_clip(str(clip[1]), dim=128, layer=[2, 3], dtype=dtype)
    elif kind == "dinov2":
        encoder = DINOv2ImageEncoder.from_dinov2(str(dinov2[1]), dim=32, layer=[2, 3], input_size=56, dtype=dtype)
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
        CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "clip")
        encoder = CLIPImageEncoder.from_clip(str(tmp_path / "clip"), dim=32, layer=[1, 3], dtype=dtype)
    tokens = encoder(PHOTO)
    assert tokens.dtype == getattr(torch, dtype)
    assert tokens.shape == (1, 16, 128 if kind == "open_clip" else 32)
    encoder.save_pretrained(tmp_path / "saved")
    again = type(encoder).from_pretrained(tmp_path / "saved")
    assert not again.training
    assert torch.equal(again(PHOTO), tokens)


@torch.no_grad()
def test_the_true_sizes() -> None:
    """Parameters of ViT-H/14's tower as laion publishes it, and of DINOv2 large, without memory for them."""
    with torch.device("meta"):
        described = open_clip.get_model_config("ViT-H-14")
        tower = OpenCLIPImageEncoder(described["vision_cfg"], described["embed_dim"], [32])
        large = DINOv2ImageEncoder()
        photo = torch.zeros(1, 3, 64, 48)
    assert tower(photo).shape == (1, 256, 1280)
    assert sum(p.numel() for p in tower.parameters()) == 632_076_800
    assert large(photo).shape == (1, 256, 1024)
    assert sum(p.numel() for p in large.parameters()) == 304_368_640

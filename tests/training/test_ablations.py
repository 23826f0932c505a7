"""Every ablation changes what its name says, in every experiment, or is refused in words."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from sspir.captioners.base import NoCaption
from sspir.config.compose import compose_config, config_root
from sspir.doctor.needs import shapes
from sspir.errors import UserError
from sspir.models.attention_adapter import AttentionAdapter, NoAttention
from sspir.models.blocks import NoControlNet
from sspir.models.controlled_unet import ControlledUNet
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.module import RestorationModule
from sspir.training.run import build_module
from tests.networks import wake

ABLATIONS = sorted(path.stem for path in (config_root() / "conf" / "ablation").glob("*.yaml"))
SMALL = ["backbone.unet.block_out_channels=[8,8,16]", "backbone.unet.norm_num_groups=4"]
REFUSED = {
    ("tiny", "no_controlnet"): "residual needs a Processor with a front that predicts a full-size image, and a C"
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_its_file_names_the_variant(name: str) -> None:
    said = OmegaConf.load(config_root() / "conf" / "ablation" / f"{name}.yaml").get("ablations", {})
    assert said == ({} if name == "none" else {name: True})


def ablated(name: str, *changes: str) -> RestorationModule:
    """The tiny experiment's module, narrow, with nothing left at zero."""
    module = build_module(compose_config("train", ["experiments=tiny", f"ablation={name}", *SMALL, *changes])).eval()
    wake(module.backbone)
    return module


def reaches(module: RestorationModule) -> set[str]:
    """Which of the three priors change the prediction."""
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        texts = module.text_encoder(module.captioner(photos, ["a cat", "dogs"]))
        texts = torch.cat([texts[:1], texts[-1:]])
        given = {
            "sample": torch.randn(1, 24, 16, 16, generator=generator),
            "prompt_embeds": texts[:1],
            "image_embeds": module.refine(module.image_encoder(photos[:1])),
            "lq": photos[:1],
        }
        other = {
            "explicit": {"prompt_embeds": texts[1:]},
            "implicit": {"image_embeds": module.refine(module.image_encoder(photos[1:]))},
            "structure": {"lq": photos[1:]},
        }
        before = module.backbone(timestep=torch.tensor(500), **given).noise
        changed = {
            prior: module.backbone(timestep=torch.tensor(500), **{**given, **change}).noise
            for prior, change in other.items()
        }
    return {prior for prior, noise in changed.items() if not torch.equal(noise, before)}


def losses(module: RestorationModule) -> set[str]:
    images = [torch.zeros(1, 3, 8, 8)]
    return set(module.loss.structure(images, torch.ones(1, 3, 16, 16)))


def order(module: RestorationModule) -> list[str]:
    """What follows the last resnet of the U-Net that has text, as it is called."""
    calls: list[str] = []
    network = module.backbone
    parts = {
        "image": network.unet_image.attentions["up0_1"],
        "text": network.unet.up_blocks[0].attentions[1],
        "pixel": network.unet_pixel.attentions["up0_1"],
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    reaches(module)
    return calls[:3]


def layers(adapter: nn.Module) -> set[str]:
    return {name.rstrip("0123456789_") for name in getattr(adapter, "attentions", {})}


ALL = {"explicit", "implicit", "structure"}
PROOFS: dict[str, Callable[[RestorationModule], bool]] = {
    "none": lambda m: (
        reaches(m) == ALL and losses(m) == {"rgb", "frequency"} and order(m) == ["image", "text", "pixel"]
    ),
    "no_explicit": lambda m: isinstance(m.captioner, NoCaption) and reaches(m) == {"implicit", "structure"},
    "no_implicit": lambda m: (
        layers(m.backbone.unet_image) == {"down", "mid", "up"} and reaches(m) == ALL - {"implicit"}
    ),
    "no_image_attention": lambda m: "refine" not in m.trainable() and reaches(m) == ALL - {"implicit"},
    "no_semantics": lambda m: isinstance(m.backbone.unet_image, NoAttention) and reaches(m) == {"structure"},
    "no_supervision": lambda m: losses(m) == set() and reaches(m) == ALL,
    "no_rgb_loss": lambda m: losses(m) == {"frequency"} and reaches(m) == ALL,
    "no_frequency_loss": lambda m: losses(m) == {"rgb"} and reaches(m) == ALL,
    "no_pixel_attention": lambda m: isinstance(m.backbone.unet_pixel, NoAttention) and reaches(m) == ALL,
    "image_attention_encoder": lambda m: layers(m.backbone.unet_image) == {"down", "mid"} and reaches(m) == ALL,
    "image_after_text": lambda m: order(m) == ["text", "image", "pixel"] and reaches(m) == ALL,
    "start_noise": lambda m: m.sampler.start is None and reaches(m) == ALL,
    "srresnet_front": lambda m: (
        m.backbone.processor.front.conv_last.in_channels == 64 and len(m.backbone.processor.front.body) == 8
    ),
}


def test_every_ablation_says_what_it_asks() -> None:
    described = (config_root() / "experiments" / "README.md").read_text()
    assert [name for name in ABLATIONS if f"| `{name}` |" not in described] == []


@pytest.mark.parametrize("name", [name for name in ABLATIONS if ("tiny", name) not in REFUSED])
def test_an_ablation_changes_what_it_says(name: str) -> None:
    assert PROOFS[name](ablated(name))


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_builds_at_stable_diffusions_true_size(name: str) -> None:
    module, sentence = shapes(compose_config("train", ["experiments=ssp_ir_paper", f"ablation={name}"]))
    assert sentence == ""
    assert module.trainable()


def test_without_supervision_the_rate_falls_once() -> None:
    for experiment in sorted(path.stem for path in (config_root() / "experiments").glob("*.yaml")):
        config = compose_config("train", [f"experiments={experiment}", "ablation=no_supervision"])
        assert config.module.structure_steps == 0
        assert not config.schedule or config.schedule.structure_steps == 0


def test_what_makes_no_sense_is_refused() -> None:
    for experiment, name in REFUSED:
        module, sentence = shapes(compose_config("train", [f"experiments={experiment}", f"ablation={name}"]))
        assert module is None
        assert REFUSED[experiment, name] in sentence


def test_without_a_controlnet_nothing_of_the_structure_arrives() -> None:
    module = ablated("no_controlnet", "module.residual=null")
    assert isinstance(module.backbone.controlnet, NoControlNet)
    assert "backbone.controlnet" not in module.trainable()
    assert reaches(module) == {"explicit", "implicit"}
    with pytest.raises(UserError, match=r"Pixel attention reads the ControlNet's residuals; .*pixel_attention=\[\]"):
        ControlledUNet.from_unet(module.backbone.unet, module.backbone.processor, controlnet=False)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["image_after_text", "no_implicit", "no_controlnet", "no_semantics"])
def test_an_ablated_pipeline_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    changes = ["module.residual=null"] if name == "no_controlnet" else []
    pipeline = ablated(name, *changes).pipeline
    pipeline.save_pretrained(tmp_path)
    again = RestorationPipeline.from_pretrained(tmp_path)
    lq = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    first, second = (each.restore(lq, ["a photo"]).images for each in (pipeline, again))
    assert torch.equal(first, second)
    adapter = again.backbone.unet_image
    assert adapter.after_text == (name == "image_after_text")
    assert isinstance(adapter, AttentionAdapter) == (name != "no_semantics")
    assert isinstance(again.backbone.controlnet, NoControlNet) == (name == "no_controlnet")

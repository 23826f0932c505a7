import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from safetensors.torch import save_file
from torch import Tensor

from sspir.batch import Batch
from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.objectives import Diffusion
from sspir.seeding import torch_seed
from sspir.training.fit import train
from sspir.training.module import RestorationModule
from sspir.training.run import build_module
from tests.distances import random_network
from tests.needs import needs
from tests.runs import roots, tiny_config
from tests.stable_diffusion import overrides, save_clip, save_stable_diffusion


def tiny_module(tmp_path: Path, *changes: str) -> RestorationModule:
    module = build_module(tiny_config(tmp_path, tmp_path, *changes))
    module.log_dict = lambda *_, **__: None
    module.generators = lambda count: [torch.Generator().manual_seed(n) for n in range(count)]  # there is no trainer
    return module


def batch(size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    hq, lq = (torch.rand(size, 3, side, side, generator=generator) for side in (32, 8))
    return Batch(lq, hq, ["a text"] * size, [f"{n}" for n in range(size)])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_has_no_loss(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = tiny_module(tmp_path, f"noise_schedule.prediction_type={kind}"), batch()
    features, images = module.backbone.structure(torch.nn.functional.interpolate(given.lq, scale_factor=4))
    clean = module.latents(given.hq, images)
    kept = module.noise_schedule.alphas_cumprod

    def perfect(noisy: Tensor, timesteps: Tensor, *_: Tensor) -> Tensor:
        a = kept[timesteps].view(-1, 1, 1, 1)
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
        return {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}[kind]

    monkeypatch.setattr(module.backbone, "predict", perfect)
    assert Diffusion().losses(module, given, given.hq, features, images)["noise"].item() < 1e-6
    monkeypatch.setattr(module.backbone, "predict", lambda noisy, *_: torch.zeros_like(noisy))
    assert Diffusion().losses(module, given, given.hq, features, images)["noise"].item() > 0.1


def test_what_the_network_learns_to_hit_is_not_rounded_to_the_trainings_precision(tmp_path: Path) -> None:
    module, given = tiny_module(tmp_path), batch()
    images = [2 * given.hq.roll(1, dims=-1) - 1]
    with torch.autocast("cpu", torch.bfloat16):
        latents = module.latents(given.hq, images)
    assert torch.equal(latents, module.latents(given.hq, images))


def test_the_optimizer_holds_exactly_what_is_trained(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    held = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    named = dict(module.named_parameters())
    assert held == {id(p) for name, p in named.items() if name.startswith(("backbone.", "refine."))}
    assert {name for name, p in named.items() if p.requires_grad} == {
        name for name, p in named.items() if id(p) in held
    }


def test_frozen_parts_stay_in_evaluation_mode(tmp_path: Path) -> None:
    module = tiny_module(tmp_path).train()
    assert module.backbone.unet.training
    assert not any(part.training for part in module.frozen())


def test_captions_are_dropped_at_the_stated_share(tmp_path: Path) -> None:
    given = batch()
    empty = tiny_module(tmp_path).text_encoder([""] * 2)
    generators = tiny_module(tmp_path).generators(2)
    all_dropped = tiny_module(tmp_path, "module.caption_dropout=1.0").semantics(given, given.hq, generators)[0]
    none_dropped = tiny_module(tmp_path, "module.caption_dropout=0.0").semantics(given, given.hq, generators)[0]
    assert torch.equal(all_dropped, empty)
    assert not torch.equal(none_dropped, empty)


def test_captions_describe_what_the_setting_says(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    for source in ("hq", "lq"):
        module = tiny_module(tmp_path, f"module.caption_source={source}")
        module.captioner = lambda images, known: seen.append(images) or list(known)
        module.semantics(batch(), torch.zeros(2, 3, 32, 32), module.generators(2))
    assert torch.equal(seen[0], batch().hq)
    assert not seen[1].any()


ONE_STEP = ["sampler.steps=1", "monitor=psnr_y", "objective.adversary.network.width=4"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("experiment", "prediction_type"),
    [(one, kind) for one in ("ssp_ir", "ssp_ir_paper") for kind in ("epsilon", "v_prediction")]
    + [pytest.param("ssp_ir_one_step", "epsilon", marks=pytest.mark.slow), ("ssp_ir_lora", "epsilon")],
)
def test_the_papers_experiments_run_on_stable_diffusion_folders(
    experiment: str, prediction_type: str, photo_folder: Path, tmp_path: Path
) -> None:
    given = overrides(save_stable_diffusion(tmp_path / "sd", prediction_type), save_clip(tmp_path / "clip"))
    places = roots(photo_folder)
    precision = ["trainer.precision=32-true"] if experiment == "ssp_ir_paper" else ["trainer.precision=bf16-mixed"]
    judged = {"loss/noise"}
    if experiment in ("ssp_ir_lora", "ssp_ir_one_step"):
        needs("peft", "lora")
    if experiment == "ssp_ir_one_step":
        save_file(random_network("lpips_vgg").features.state_dict(), tmp_path / "vgg16.safetensors")
        given += [*ONE_STEP, f"objective.terms.lpips.loss.path={tmp_path}/vgg16.safetensors", "+data.passes=4"]
        judged = {"loss/pixel", "loss/lpips", "loss/adversarial", "discriminator/gradient_norm"}
    summary = train(
        compose_config("train", [f"experiments={experiment}", f"folder={tmp_path}/run", *given, *places, *precision])
    )
    assert summary["step"] == 3
    assert 0 < summary["val/psnr_y"] < 60
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, second = [line for line in lines if "loss/total" in line][:2]
    assert first["step"] == 1
    assert {*judged, "loss/rgb", "loss/frequency"} <= second.keys()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["backbone.path=/nowhere/sd15"], "backbone.path"),
        (["backbone.path=someone/something"], "backbone.path"),
        (["image_encoder.path=someone/clip"], "image_encoder.path"),
    ],
)
def test_missing_weights_are_told_in_words(
    changes: list[str], sentence: str, photo_folder: Path, tmp_path: Path
) -> None:
    from hydra.errors import InstantiationException

    given = overrides(save_stable_diffusion(tmp_path / "sd"), save_clip(tmp_path / "clip"))
    config = compose_config("train", ["experiments=ssp_ir", f"folder={tmp_path}/run", *given, *changes])
    with pytest.raises(InstantiationException) as error:
        build_module(config)
    assert isinstance(error.value.__cause__, UserError)
    assert sentence in str(error.value.__cause__)


def test_a_card_without_room_is_told_in_a_sentence(photo_folder: Path, tmp_path: Path) -> None:
    class Full(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    config = tiny_config(tmp_path / "run", photo_folder)
    with pytest.raises(UserError, match="no room for a step of 2 images; lower batch_size"):
        train(config, callbacks=[Full()])


@pytest.mark.thorough
def test_every_seed_begins_with_weights_of_its_own(photo_folder: Path, tmp_path: Path) -> None:
    first = []
    for seed in (1, 1 + 2**32, 2 + 2**32):
        module = build_module(tiny_config(tmp_path, photo_folder, f"seed={seed}"))
        first.append(torch.nn.utils.parameters_to_vector(module.backbone.parameters()))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    torch.manual_seed(1)
    ordinary = torch.rand(1)
    torch.manual_seed(torch_seed(1))
    assert torch.equal(torch.rand(1), ordinary)

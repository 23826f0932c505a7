"""Scores distilled into a single step, and paths into a student of few steps, by a frozen copy of the beginning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn

from sspir.batch import Batch
from sspir.config.build import refusal
from sspir.errors import UserError
from sspir.models.latent import upscale
from sspir.models.prediction import ddim_step, pred_original_sample
from sspir.objectives.frozen import FrozenDenoiser
from sspir.training.checkpoint import load_checkpoint
from sspir.training.module import RestorationModule
from sspir.training.run import build_module, find_checkpoint, load_run
from tests.needs import needs
from tests.networks import wake
from tests.pipelines import photo
from tests.runs import CONSISTENCY, SCORE, tiny_config, tiny_run


@pytest.fixture(autouse=True)
def lora() -> None:
    needs("peft", "lora")


class Trainer:
    accumulate_grad_batches = 1


def module_of(folder: Path, *changes: str) -> RestorationModule:
    """A module whose objective has begun, as with weights of another run."""
    config = tiny_config(folder, folder, "module.caption_dropout=0", *changes)
    module = build_module(config).eval()
    module.config["init"] = "some run"
    module._trainer = Trainer()
    module.generators = lambda count: generators()
    wake(module.backbone)
    module.objective.begin(module)
    return module


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in range(2)]


def batch() -> Batch:
    hq = torch.stack([photo(32, 32, 0), photo(32, 32, 1)])
    return Batch(hq[..., ::4, ::4], hq, ["a house", "a tree"], ["0", "1"])


def made_of(module: RestorationModule) -> tuple[Any, Tensor, list[torch.Generator]]:
    """What the step makes, the photo it saw, and the generators after it."""
    given, left = batch(), generators()
    lq = upscale(given.lq, given.size)
    with torch.no_grad():
        features, images = module.backbone.structure(lq)
        made = module.objective.generate(module, given, lq, features, images, left)
    return made._replace(latents=made.latents.requires_grad_()), lq, left


def stir(network: nn.Module, key: str = "") -> None:
    """Let the weights learn something, the same ones whoever asks."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if key in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=random))


def test_without_guidance_a_copy_that_has_learned_nothing_leads_nowhere(tmp_path: Path) -> None:
    module = module_of(tmp_path, *SCORE, "objective.guidance=1.0")
    made, lq, left = made_of(module)
    loss = module.objective.of_latents(module, lq, made, left)["distillation"]
    assert loss == 0
    stir(module.objective.frozen, "lora_B")
    made, lq, left = made_of(module)
    assert module.objective.of_latents(module, lq, made, left)["distillation"] > 1e-4


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_the_gradient_is_the_difference_of_two_estimates(tmp_path: Path, kind: str) -> None:
    given = ["objective.kind=csd", "objective.negative_caption=blurry", "objective.timesteps=[100,100]"]
    module = module_of(tmp_path, *SCORE, *given, f"noise_schedule.prediction_type={kind}")
    made, lq, left = made_of(module)
    module.objective.weight = 3.0
    state = [each.get_state() for each in left]
    module.objective.of_latents(module, lq, made, left)["distillation"].backward()
    for each, before in zip(left, state, strict=True):
        each.set_state(before)
    # The same by the network itself, which has not been trained since
    latents, schedule, timestep = made.latents.detach(), module.noise_schedule, torch.tensor(100)
    noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in left])
    noisy = schedule.add_noise(latents, noise, timestep[None])
    with torch.no_grad():
        features, _ = module.backbone.structure(lq)
        positive, negative = (
            pred_original_sample(
                schedule, noisy,
                module.backbone.predict(noisy, timestep, text, module.refine(made.tokens), features), timestep,
            )
            for text in (made.prompt_embeds, module.text_encoder(["blurry"] * 2))
        )  # fmt: skip
    likely = negative + 7.5 * (positive - negative)
    scale = (latents - likely).abs().mean(dim=(1, 2, 3), keepdim=True)
    expected = 3.0 * 2 * (negative - likely) / scale / latents.numel()
    assert made.latents.grad is not None
    assert (made.latents.grad - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.thorough
def test_the_lora_learns_what_the_step_makes_and_the_frozen_denoiser_nothing(tmp_path: Path) -> None:
    module = module_of(tmp_path, *SCORE, "objective.guidance=1.0")
    objective, frozen = module.objective, module.objective.frozen
    before = {key: weight.clone() for key, weight in frozen.state_dict().items()}
    own = {key: weight.clone() for key, weight in module.state_dict().items()}
    losses = []
    for _ in range(40):
        made, lq, left = made_of(module)  # the same draws: the same timesteps and noise
        objective.of_latents(module, lq, made, left)
        objective.end_step()
        losses.append(float(objective.figures()["distillation/lora_loss"]))
    assert losses[-1] < 0.9 * losses[0]
    changed = {key for key, weight in frozen.state_dict().items() if not torch.equal(weight, before[key])}
    assert changed
    assert all("lora_" in key for key in changed)
    assert all(torch.equal(weight, own[key]) for key, weight in module.state_dict().items())


def test_what_is_not_trained_is_shared_in_memory(tmp_path: Path) -> None:
    module = module_of(tmp_path, *SCORE)
    front = module.backbone.processor.front
    places = {weight.data_ptr() for weight in module.parameters()}
    assert not any(weight.data_ptr() in places for weight in module.objective.frozen.parameters())
    module.backbone.unet.requires_grad_(False)
    front.requires_grad_(False)
    frozen = FrozenDenoiser(module, priors=True)
    assert {weight.data_ptr() for weight in frozen.backbone.unet.parameters()} <= places
    assert {weight.data_ptr() for weight in frozen.backbone.processor.front.parameters()} <= places
    assert not any(key.startswith("backbone.unet.") for key in frozen.own_weights())
    assert any(key.startswith("backbone.controlnet.") for key in frozen.own_weights())
    text_alone = FrozenDenoiser(module, priors=False)  # the papers' way costs no memory, and no place in a checkpoint
    assert not text_alone.own_weights()
    noisy = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    text = module.text_encoder(["a", "b"])
    lq = batch().hq
    expected = module.backbone.unet(noisy, torch.tensor([5, 6]), text).sample
    predicted = text_alone.predict(noisy, torch.tensor([5, 6]), text, text_alone.see(lq, module.image_encoder(lq)))
    assert (predicted - expected).abs().max() < 1e-5


def test_the_frozen_denoiser_stays_what_the_training_began_with(tmp_path: Path) -> None:
    module = module_of(tmp_path, *SCORE)
    lq = batch().hq
    noisy, text = torch.zeros(2, 24, 8, 8), module.text_encoder(["a", "b"])
    frozen, steps = module.objective.frozen, torch.tensor([5, 900])
    tokens = module.image_encoder(lq)
    first = frozen.clean(noisy, steps, text, frozen.see(lq, tokens))
    features, _ = module.backbone.structure(lq)
    own = module.backbone.predict(noisy, steps, text, module.refine(tokens), features)
    assert torch.allclose(first, own, atol=1e-5)
    stir(module)
    assert torch.equal(frozen.clean(noisy, steps, text, frozen.see(lq, tokens)), first)


@pytest.mark.parametrize("start", [300, 999])
def test_the_steps_of_restoring_are_trained(tmp_path: Path, start: int) -> None:
    module = module_of(tmp_path, *CONSISTENCY, f"sampler.start={start}")
    for steps in (1, 2, 3, 4):
        _, timesteps = replace(module.sampler, steps=steps).build(module.noise_schedule)
        assert len(timesteps) == steps
        assert set(timesteps.tolist()) <= set(module.objective.ends.tolist())


def test_half_precision_that_needs_a_scaler_is_refused(tmp_path: Path) -> None:
    module = module_of(tmp_path, *SCORE)
    module._trainer.precision = "16-mixed"
    with pytest.raises(UserError, match="learn in float16"):
        module.objective.begin(module)


def consistency_of(module: RestorationModule) -> Tensor:
    given = batch()
    lq = upscale(given.lq, given.size)
    features, images = module.backbone.structure(lq)
    return module.objective.losses(module, given, lq, features, images)["consistency"]


def test_a_student_of_a_single_level_is_what_it_began_with(tmp_path: Path) -> None:
    """From the start one step of DDIM leads to what is clean: the denoiser's estimate, but for LCM's boundary."""
    module = module_of(tmp_path, *CONSISTENCY, "objective.levels=1", "objective.guidance=1.0", "sampler.steps=1")
    assert consistency_of(module) < 1e-4
    guided = module_of(tmp_path, *CONSISTENCY, "objective.levels=1", "objective.guidance=7.5", "sampler.steps=1")
    assert consistency_of(guided) > 1e-3
    stir(module.backbone.unet)
    assert consistency_of(module) > 1e-3


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
def test_a_step_of_the_path_is_that_of_ddim(tmp_path: Path, kind: str) -> None:
    """The levels' path, taken step by step from the start, is what the sampler's DDIM does at the same timesteps."""
    from diffusers import DDIMScheduler

    changes = [f"noise_schedule.prediction_type={kind}", "objective.levels=3", "objective.guidance=1.0"]
    module = module_of(tmp_path, *CONSISTENCY, *changes, "sampler.start=299")
    objective, schedule = module.objective, module.noise_schedule
    assert objective.ends.tolist() == [-1, 99, 199, 299]
    ddim = DDIMScheduler.from_config(schedule.config, set_alpha_to_one=True, clip_sample=False)
    ddim.num_inference_steps = 10  # a stride of a hundred
    latents = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(1))
    lq = batch().hq
    text = module.text_encoder(["a", "b"])
    seen = objective.frozen.see(lq, module.image_encoder(lq))
    for at in (299, 199, 99):
        timesteps, earlier = torch.full((2,), at), torch.full((2,), at - 100)
        predicted = objective.frozen.predict(latents, timesteps, text, seen)
        expected = ddim.step(predicted, at, latents).prev_sample
        clean = objective.frozen.clean(latents, timesteps, text, seen)
        moved = ddim_step(schedule, latents, clean, timesteps, earlier)
        assert (moved - expected).abs().max() < 1e-4
        latents = moved


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [
        SCORE,
        pytest.param([*SCORE, "objective.kind=csd"], marks=pytest.mark.slow),
        pytest.param(CONSISTENCY, marks=pytest.mark.slow),
    ],
    ids=["vsd", "csd", "consistency"],
)
def test_a_run_goes_on_exactly_and_is_loaded(changes: list[str], photo_folder: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path / "base", photo_folder, "data.passes=4", "module.structure_steps=0", "trainer.max_steps=2")
    given = [*changes, f"init={tmp_path / 'base'}", "schedule.num_training_steps=4", "trainer.limit_val_batches=1"]
    tiny_run(tmp_path / "whole", photo_folder, *given)
    tiny_run(tmp_path / "parts", photo_folder, *given, "trainer.max_steps=2")
    (tmp_path / "base").rename(tmp_path / "moved")  # a run that goes on needs it no more
    tiny_run(tmp_path / "parts", photo_folder, *given)
    whole, parts = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("whole", "parts"))
    for part in ("state_dict", "ema"):
        assert all(torch.equal(parts[part][key], value) for key, value in whole[part].items())
    assert whole["objective"]["frozen"].keys() == parts["objective"]["frozen"].keys()
    assert all(
        torch.equal(parts["objective"]["frozen"][key], each) for key, each in whole["objective"]["frozen"].items()
    )
    restored = load_run(tmp_path / "whole").pipeline.restore(photo(24, 20)[None], ["a"]).images
    assert restored.shape == (1, 3, 96, 80)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([*CONSISTENCY, "sampler.scheduler=DDIMScheduler"], "add sampler=lcm"),
        ([*CONSISTENCY, "sampler.guidance=2"], "without guidance"),
        ([*CONSISTENCY, "objective.levels=400"], "400 do not fit below start=300"),
        ([*CONSISTENCY, "objective.levels=0"], "objective.levels"),
        ([*SCORE, "sampler.steps=2"], "a single step"),
        ([*SCORE, "objective.kind=dmd"], "choose vsd or csd"),
        ([*SCORE, "objective.kind=csd", "objective.guidance=1"], "guidance above 1"),
        ([*SCORE, "objective.timesteps=[500,20]"], "a later one"),
        ([*SCORE, "objective.timesteps=20"], "a later one, as [20,980]"),
        ([*SCORE, "objective.guidance=-2"], "objective.guidance: -2"),
        ([*SCORE, "objective.distillation=-1"], "objective.distillation: -1"),
        ([*SCORE, "objective.clip=x"], "objective.clip: 'x'"),
        ([*SCORE, "objective.teacher_steps=x"], "objective.teacher_steps: 'x'"),
        ([*SCORE, "objective.terms.pixel.weight=x"], "objective.terms.pixel: weight: 'x'"),
        ([*CONSISTENCY, "objective.guidance=abc"], "objective.guidance: 'abc'"),
        ([*CONSISTENCY, "module.freeze=[*]"], "leaves nothing to train"),
        ([*CONSISTENCY, "backbone.lora=8"], "give it as {rank: 8}"),
        ([*SCORE, "objective.timesteps=[20,1000]"], "1000 is behind the last one of this model, 999"),
        ([*SCORE, "objective.targets=[to_x]"], "'to_x' fits no layer"),
        ([*CONSISTENCY, "module.structure_steps=2"], "set module.structure_steps=0"),
        (SCORE, "init=shipped"),
        (CONSISTENCY, "init=shipped"),
    ],
)
def test_what_cannot_be_is_told(changes: list[str], sentence: str, photo_folder: Path, tmp_path: Path) -> None:
    init = [] if sentence == "init=shipped" else ["init=base"]

    def begin() -> None:
        module = build_module(tiny_config(tmp_path, photo_folder, *changes, *init))
        module.objective.begin(module)

    with pytest.raises((UserError, InstantiationException)) as error:
        begin()
    told = error.value if isinstance(error.value, UserError) else refusal(error.value)
    assert sentence in str(told)

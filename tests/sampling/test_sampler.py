from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from omegaconf import OmegaConf

from sspir.config.compose import config_root
from sspir.errors import UserError
from sspir.sampling.sampler import Sampler
from tests.reference import recording


@pytest.fixture
def schedule() -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)


@pytest.mark.parametrize("steps", ["1", "3", "4", "20", "50"])
def test_the_authors_timesteps(schedule: DDPMScheduler, steps: str) -> None:
    _, timesteps = Sampler(steps=int(steps), start=999, respace=False, options={"timestep_spacing": "leading"}).build(
        schedule
    )
    assert timesteps.tolist() == recording("sampling").config["ddpm_timesteps_for_n_steps"][steps]


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize(("steps", "start"), [(4, 300), (7, 500), (1, 10), (20, 999)])
def test_all_steps_lie_below_the_start(schedule: DDPMScheduler, scheduler: str, steps: int, start: int) -> None:
    solver, timesteps = Sampler(scheduler=scheduler, steps=steps, start=start).build(schedule)
    assert len(timesteps) == steps
    assert timesteps[0] == start
    assert (timesteps.diff() < 0).all()
    assert torch.allclose(solver.alphas_cumprod, schedule.alphas_cumprod[: start + 1])


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("start", [999, 300, None])
def test_a_perfect_denoiser_gives_the_clean_latent_back(schedule: DDPMScheduler, scheduler: str, start: int) -> None:
    options = {"set_alpha_to_one": True} if scheduler == "DDIMScheduler" else {}
    solver, timesteps = Sampler(scheduler=scheduler, options={"clip_sample": False, **options}, start=start).build(
        schedule
    )
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = noise if start is None else solver.add_noise(clean, noise, torch.tensor([start]))
    for timestep in timesteps:
        kept = solver.alphas_cumprod[timestep]
        latents = solver.step((latents - kept.sqrt() * clean) / (1 - kept).sqrt(), timestep, latents).prev_sample
    assert (latents - clean).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scheduler": "DDIMSheduler"}, "no scheduler 'DDIMSheduler'"),
        ({"steps": 0}, "steps: 0 is no whole number from 1 to 1,000"),
        ({"steps": 2000}, "from 1 to 1,000"),
        ({"guidance": float("nan")}, "guidance: nan"),
        ({"tile": 8, "overlap": 8}, "overlap=8"),
        ({"options": {"set_alpha_to_won": True}}, "no option set_alpha_to_won"),
        ({"colour": "sepia"}, "'sepia' is no colour fix"),
        ({"guidance_rescale": 2}, "guidance_rescale: 2 is no number from 0 to 1"),
        ({"tile": "big"}, "no side of a tile"),
        ({"tile_tokens": "none"}, "choose image or tile"),
        ({"start": 1000}, "between 1 and 999"),
        ({"start": "abc"}, "start: 'abc' is no whole number"),
        ({"start": 2.5}, "start: 2.5 is no whole number"),
        ({"region": "whole"}, "region: 'whole' is no whole number"),
        ({"region": 32}, "region=32 is too small"),
        ({"tile_batch": 0}, "tile_batch: 0 is no whole number"),
        ({"tile_batch": "all"}, "tile_batch: 'all' is no whole number"),
        ({"overlap": None}, "overlap: None is no whole number"),
        ({"tile": 48.5}, "tile=48.5 is no side of a tile"),
        ({"start": 3, "steps": 4}, "4 steps do not fit below start=3"),
        ({"scheduler": "UNet2DModel"}, "no scheduler 'UNet2DModel' for the noise schedule"),
        ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "no scheduler 'FlowMatchEulerDiscreteScheduler' for"),
        ({"scheduler": "EDMEulerScheduler"}, "no scheduler 'EDMEulerScheduler' for the noise schedule"),
        ({"scheduler": "DDIMInverseScheduler"}, "no scheduler 'DDIMInverseScheduler' for the noise schedule"),
        ({"scheduler": "RePaintScheduler"}, "no scheduler 'RePaintScheduler' for"),
        ({"scheduler": "CogVideoXDPMScheduler"}, "no scheduler 'CogVideoXDPMScheduler' for"),
        ({"scheduler": "DPMSolverMultistepInverseScheduler"}, "DPMSolverMultistepInverseScheduler goes up from the"),
        ({"scheduler": None}, "no scheduler None"),
        ({"scheduler": "subprocess.Popen"}, "scheduler=subprocess.Popen is no class in a folder of SSPIR_PATH"),
        ({"scheduler": "sspir.pretrained.load_noise_schedule"}, "is no class in a folder of SSPIR_PATH"),
        ({"scheduler": "PNDMScheduler", "steps": 1}, "PNDMScheduler does not take these steps"),
        ({"scheduler": "UniPCMultistepScheduler", "respace": False}, "cannot begin at start=999 amid steps"),
        ({"scheduler": "EulerDiscreteScheduler", "respace": False}, "cannot begin at start=999 amid steps"),
        ({"scheduler": "HeunDiscreteScheduler", "respace": False, "start": 300}, "cannot begin at start=300"),
        ({"scheduler": "LCMScheduler", "respace": False, "steps": 8, "start": 9}, "None of 8 steps .* below start=9;"),
        ({"options": None}, "options=None must be arguments of the scheduler"),
        ({"caption_suffix": None}, "caption_suffix=None must be one text"),
        ({"guidance_interval": [999, 200]}, r"guidance_interval=\[999, 200\] must be the last timestep and the first"),
        ({"guidance_interval": [1, 2, 3]}, r"guidance_interval=\[1, 2, 3\] must be"),
        ({"guidance_interval": 500}, "guidance_interval=500 must be"),
        ({"guidance_interval": ["a", "b"]}, "guidance_interval: 'a' is no whole number"),
        (
            {"scheduler": "DPMSolverMultistepScheduler", "options": {"solver_type": "huen"}},
            "not take sampler.options={'so",
        ),
        (
            {"scheduler": "UniPCMultistepScheduler", "options": {"solver_order": "a"}},
            "does not take sampler.options={'so",
        ),
        (
            {"scheduler": "UniPCMultistepScheduler", "options": {"solver_order": 0}},
            "change sampler.options={'solver_order",
        ),
        (
            {"options": {"timestep_spacing": "wide"}, "start": None},
            "change sampler.options={'timestep_spacing': 'wide'} or",
        ),
    ],
)
def test_bad_settings_are_refused_in_words(schedule: DDPMScheduler, settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Sampler(**settings).build(schedule)


@pytest.mark.parametrize(
    "scheduler", ["EulerAncestralDiscreteScheduler", "PNDMScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"]
)
def test_solvers_that_do_not_know_what_is_predicted_are_refused_before_a_step(
    schedule: DDPMScheduler, scheduler: str
) -> None:
    drawn = torch.get_rng_state()
    built = Sampler(scheduler=scheduler, steps=4).build(schedule)[0]
    assert built.step_index is None if scheduler != "PNDMScheduler" else not built.ets  # no step was made by it
    assert torch.equal(torch.get_rng_state(), drawn)
    if scheduler != "LCMScheduler":
        schedule = DDPMScheduler.from_config(schedule.config, prediction_type="sample")
        with pytest.raises(UserError, match=f"{scheduler} does not take prediction_type=sample .*; change sampler.sch"):
            Sampler(scheduler=scheduler, steps=4).build(schedule)


def test_solvers_that_draw_by_no_images_seed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seeded(EulerDiscreteScheduler):  # as DPMSolverSDEScheduler is, which needs another package
        def __init__(self, trained_betas: Any = None, noise_sampler_seed: int | None = None) -> None: ...

    monkeypatch.setattr(diffusers, "DPMSolverSDEScheduler", Seeded)
    with pytest.raises(UserError, match=r"no scheduler 'DPMSolverSDEScheduler' for .* a seed for each image"):
        Sampler(scheduler="DPMSolverSDEScheduler")


@pytest.mark.parametrize("name", ["ddpm", "ddim", "unipc", "dpmpp", "euler", "lcm", "fast"])
@pytest.mark.parametrize("start", [999, 300, None])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_preset_runs_its_steps_and_ends_at_a_perfect_denoisers_latent(
    schedule: DDPMScheduler, name: str, start: int | None, prediction: str
) -> None:
    preset = OmegaConf.to_container(OmegaConf.load(config_root() / "conf" / "sampler" / f"{name}.yaml"))
    del preset["_target_"]
    options = {**preset.pop("options", {}), **({"clip_sample": False} if name in ("ddim", "ddpm", "lcm") else {})}
    schedule = DDPMScheduler.from_config(schedule.config, prediction_type=prediction)
    # One that divides no schedule
    sampler = Sampler(**{**preset, "options": options, "start": start, "steps": 7, "respace": True})
    solver, timesteps = sampler.build(schedule)
    assert len(timesteps) == 7
    assert start is None or timesteps[0] == start
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = noise * solver.init_noise_sigma if start is None else solver.add_noise(clean, noise, timesteps[:1])
    for timestep in timesteps:
        scaled = solver.scale_model_input(latents, timestep)
        kept = schedule.alphas_cumprod[int(timestep)]
        epsilon = (scaled - kept.sqrt() * clean) / (1 - kept).sqrt()
        velocity = kept.sqrt() * epsilon - (1 - kept).sqrt() * clean
        predicted = {"epsilon": epsilon, "sample": clean, "v_prediction": velocity}[prediction]
        latents = solver.step(predicted, timestep, latents).prev_sample
    assert (latents - clean).abs().max() < 2e-3


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler", "LCMScheduler"])
def test_steps_over_the_whole_schedule_begin_with_the_noise_of_the_start(
    schedule: DDPMScheduler, scheduler: str
) -> None:
    options = {"clip_sample": False, **({"set_alpha_to_one": True} if scheduler == "LCMScheduler" else {})}
    solver, timesteps = Sampler(scheduler=scheduler, options=options, steps=8, start=300, respace=False).build(schedule)
    assert 1 < len(timesteps) < 8
    assert timesteps[0] < 300
    noised = [each.add_noise(torch.ones(1), torch.ones(1), torch.tensor([300])) for each in (solver, schedule)]
    assert torch.equal(*noised)
    clean, latents = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in timesteps:
        kept = solver.alphas_cumprod[timestep]
        latents = solver.step((latents - kept.sqrt() * clean) / (1 - kept).sqrt(), timestep, latents).prev_sample
    assert (latents - clean).abs().max() < 1e-3


def test_ddim_keeps_the_options_it_is_given(schedule: DDPMScheduler) -> None:
    options = {"set_alpha_to_one": True, "clip_sample": True, "clip_sample_range": 0.25}
    solver, timesteps = Sampler(scheduler="DDIMScheduler", options=options, steps=4).build(schedule)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in timesteps:
        latents = solver.step(latents, timestep, latents).prev_sample
    assert latents.abs().max() <= 0.2501


def test_guidance_acts_in_its_interval_only() -> None:
    sampler = Sampler(guidance=5, guidance_interval=[200, 600])
    assert [sampler.guides(timestep) for timestep in (100, 200, 600, 601)] == [False, True, True, False]
    assert not Sampler(guidance=1, guidance_interval=[0, 999]).guides(300)

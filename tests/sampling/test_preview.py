"""Previews: what the network foresees, in colours that nobody had to measure."""

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch.nn import functional as F

from sspir.models.latent import decode_latents, encode_latents
from sspir.models.prediction import pred_original_sample
from sspir.sampling.loop import Step
from sspir.sampling.preview import Colours
from tests.pipelines import photo, tiny_pipeline


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_foresees_the_clean_latents(kind: str) -> None:
    schedule = DDPMScheduler(prediction_type=kind)
    clean, noise = torch.randn(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor(700)
    noisy = schedule.add_noise(clean, noise, timestep[None])
    predicted = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": schedule.get_velocity(clean, noise, timestep[None]),
    }[kind]
    assert (pred_original_sample(schedule, noisy, predicted, timestep) - clean).abs().max() < 1e-4


def test_colours_are_those_of_the_photo() -> None:
    vae, image = tiny_pipeline().vae, photo(48, 40)[None]
    latents = encode_latents(vae, image)
    small = F.interpolate(image, latents.shape[-2:], mode="area")
    assert (Colours(latents, image)(latents) - small).abs().max() < 2e-3
    another = photo(48, 40, seed=7)[None]
    shown = Colours(latents, image)(encode_latents(vae, another))
    assert (shown - F.interpolate(another, latents.shape[-2:], mode="area")).abs().mean() < 0.02
    flat = torch.full_like(image, 0.3)
    assert (Colours(encode_latents(vae, flat), flat)(encode_latents(vae, flat)) - 0.3).abs().max() < 1e-3


@pytest.mark.parametrize("start", [999, None])
@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_the_last_preview_is_the_result_in_small(start: int | None, name: str) -> None:
    seen: list[torch.Tensor] = []

    def look(step: Step) -> None:
        seen.append(step.preview())

    settings = {
        "scheduler": name,
        "options": {},
        "steps": 4,
        "start": start,
        "guidance": 1.0,
        "colour": "none",
        "output_type": "pt",
    }
    pipeline, lq = tiny_pipeline(), photo(13, 9)
    result = pipeline(lq, "a", on_step=look, **settings).images[0]
    assert len(seen) == 4
    small = F.interpolate(result[None], seen[-1].shape[-2:], mode="area")
    assert seen[-1].shape == (1, 3, 13, 9)
    assert 0 <= seen[-1].min() <= seen[-1].max() <= 1
    assert (seen[-1] - small).abs().mean() < 0.03
    assert torch.equal(result, pipeline(lq, "a", **settings).images[0])  # looking changes nothing


def test_a_preview_costs_a_fraction_of_decoding() -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **kinds)
    latents = torch.randn(1, 4, 48, 48, generator=torch.Generator().manual_seed(0))
    colours = Colours(latents, torch.rand(1, 3, 96, 96))
    with torch.no_grad(), torch.autograd.profiler.profile(with_flops=True) as decoding:
        decode_latents(vae.eval(), latents)
    with torch.no_grad(), torch.autograd.profiler.profile(with_flops=True) as looking:
        colours(latents)
    flops = [sum(event.flops or 0 for event in profile.key_averages()) for profile in (looking, decoding)]
    assert 0 < flops[0] < 0.001 * flops[1]

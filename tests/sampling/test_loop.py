"""What the sampler loop saves changes no result."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from sspir.models.attention_processor import CPUAttnProcessor, cpu_attention
from sspir.models.controlled_unet import ControlledUNet
from sspir.sampling.loop import Predictor, Priors, predict, sample
from sspir.sampling.sampler import Sampler
from tests.networks import XL, tiny_inputs, tiny_network, tiny_unet, wake

SCHEDULE = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)

CPU = torch.device("cpu")
FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def network() -> ControlledUNet:
    backbone = tiny_network()
    wake(backbone)
    return backbone


def priors(backbone: ControlledUNet, given: dict[str, torch.Tensor], guided: bool = True) -> Priors:
    texts = torch.cat([0.5 * given["prompt_embeds"].flip(1), given["prompt_embeds"]])
    features, _ = backbone.structure(given["lq"])
    return Priors(texts if guided else given["prompt_embeds"], given["image_embeds"], features)


@torch.no_grad()
def test_shared_halves_and_kept_keys_equal_the_plain_way() -> None:
    backbone, given = network(), tiny_inputs(12, 8)
    held, settings = priors(backbone, given), Sampler(guidance=4.0, tile=64)
    timestep = torch.tensor(321)
    twice = [
        tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in (given["sample"], held.image_embeds, held.features)
    ]
    whole = backbone.predict(twice[0], timestep, held.prompt_embeds, twice[1], twice[2])
    without, with_text = whole.chunk(2)
    wanted = without + 4.0 * (with_text - without)
    predictor = Predictor(backbone, settings, held)
    rows: dict[str, int] = {}
    for path in (FIRST, "mid_block.attentions.0.transformer_blocks.0.attn1"):
        query = backbone.unet.get_submodule(path).to_q
        query.register_forward_hook(lambda _, __, found, path=path: rows.update({path: len(found)}))
    with cpu_attention(backbone, CPU):
        first = predict(predictor, given["sample"], timestep)
        again = predict(predictor, given["sample"], timestep)  # with keys and values from before
    assert (first - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert torch.equal(first, again)
    assert sorted(rows.values()) == [rows[FIRST], 2 * rows[FIRST]]  # nothing was told apart yet before the first text
    assert not [m for m in backbone.modules() if isinstance(getattr(m, "processor", None), CPUAttnProcessor)]


@torch.no_grad()
@pytest.mark.parametrize("image_after_text", [False, True])
def test_diffusers_own_processors_give_the_same(image_after_text: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, given = wake(tiny_network(image_after_text=image_after_text)), tiny_inputs(8, 24)
    settings = Sampler(steps=3, guidance=4.0, tile=16, overlap=4, tile_batch=2)
    ran: list[object] = []
    for module in backbone.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda attention, *_: ran.append(type(attention.processor)))

    def restored(settings: Sampler) -> torch.Tensor:
        ran.clear()
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        held = priors(backbone, given, settings.guided)
        return sample(backbone, SCHEDULE, settings, given["sample"], held, seeds)

    ours = restored(settings)
    assert set(ran) == {CPUAttnProcessor}
    without_text = restored(replace(settings, guidance=1.0))
    monkeypatch.setattr("sspir.sampling.loop.cpu_attention", lambda *_: nullcontext())  # as on a GPU
    stock = restored(settings)
    assert set(ran) == {AttnProcessor2_0}
    assert (stock - ours).abs().max() < 1e-5 * ours.abs().max()
    assert (without_text - ours).abs().max() > 1e-2 * ours.abs().max()


@torch.no_grad()
def test_a_pooled_caption_does_not_hide_from_the_memory_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, given = wake(tiny_network(unet=tiny_unet(**XL))), tiny_inputs()
    held, settings = priors(backbone, given), Sampler(scheduler="DDIMScheduler", steps=3, guidance=4.0, tile=64)
    processors: dict[str, CPUAttnProcessor] = {}
    keys: list[str] = []
    for path, module in backbone.named_modules():
        if isinstance(module, Attention) and path.endswith("attn2") and "unet_pixel" not in path:
            module.register_forward_hook(lambda attn, *_, path=path: processors.update({path: attn.processor}))
            module.to_k.register_forward_hook(lambda *_, path=path: keys.append(path))

    def restored() -> torch.Tensor:
        keys.clear()
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return sample(backbone, SCHEDULE, settings, given["sample"], held, seeds)

    ours = restored()
    assert sorted(keys) == sorted(processors)  # once per layer, in three steps
    assert {len(processor.held) for processor in processors.values()} == {1}
    monkeypatch.setattr("sspir.sampling.loop.cpu_attention", partial(cpu_attention, remember=False))
    assert torch.equal(restored(), ours)
    assert len(keys) == 3 * len(processors)


@torch.no_grad()
def test_tiles_of_two_images_meet_their_own_words() -> None:
    backbone, given = network(), tiny_inputs(8, 24)
    held = priors(backbone, given)
    together = Predictor(backbone, Sampler(guidance=4.0, tile=8, overlap=4, tile_batch=3), held)
    with cpu_attention(backbone, CPU):
        both = predict(together, given["sample"], torch.tensor(500))
    for index in range(2):
        rows = [index]
        texts = held.prompt_embeds[[index, index + 2]]
        alone = Predictor(
            backbone,
            Sampler(guidance=4.0, tile=8, overlap=4, tile_batch=1),
            Priors(texts, held.image_embeds[rows], held.features[rows]),
        )
        with cpu_attention(backbone, CPU):
            one = predict(alone, given["sample"][rows], torch.tensor(500))
        assert (both[rows] - one).abs().max() < 1e-4 * one.abs().max()


@torch.no_grad()
def test_outside_its_interval_guidance_costs_and_changes_nothing() -> None:
    backbone, given = network(), tiny_inputs()
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    rows: list[int] = []
    denoise = ControlledUNet.denoise
    backbone.denoise = lambda *arguments: rows.append(len(arguments[2])) or denoise(backbone, *arguments)
    settings = Sampler(scheduler="DDIMScheduler", steps=4, guidance=3.0, guidance_interval=(400, 800), tile=64)
    sample(backbone, SCHEDULE, settings, given["sample"], priors(backbone, given), seeds)
    assert rows == [2, 4, 4, 2]  # at 999, 749, 499 and 249


@torch.no_grad()
def test_rescaled_guidance_keeps_the_spread_of_the_prediction() -> None:
    backbone, given = network(), tiny_inputs()
    held, timestep = priors(backbone, given), torch.tensor(700)
    results = {}
    for rescale in (0.0, 0.5, 1.0):
        predictor = Predictor(backbone, Sampler(guidance=9.0, guidance_rescale=rescale, tile=64), held)
        with cpu_attention(backbone, CPU):
            results[rescale] = predict(predictor, given["sample"], timestep)
            conditional = predictor(given["sample"], timestep)[1]
    spread = {rescale: result.std(dim=(1, 2, 3)) for rescale, result in results.items()}
    wanted = conditional.std(dim=(1, 2, 3))
    assert torch.allclose(spread[1.0], wanted, rtol=1e-4)
    assert ((spread[0.5] - wanted).abs() < (spread[0.0] - wanted).abs()).all()

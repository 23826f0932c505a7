"""Nothing that stayed on the CPU meets what is on a graphics card; a fake card shows it where there is none."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from sspir.batch import Batch
from sspir.config.compose import config_root, load_choice
from sspir.models.attention_processor import CPUAttnProcessor, cpu_attention
from sspir.sampling.loop import Priors, Step, sample
from sspir.sampling.precision import plain
from sspir.sampling.restoration import Restoration
from sspir.sampling.sampler import Sampler
from sspir.training.module import RestorationModule
from sspir.training.run import build_module
from tests.fake_card import FakeCard
from tests.networks import tiny_inputs, tiny_network
from tests.pipelines import photo
from tests.runs import tiny_config

SAMPLERS = sorted(path.stem for path in (config_root() / "conf" / "sampler").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def card() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, FakeCard():
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 16 * 2**30))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(CPUAttnProcessor, "__call__", None)  # a card attends by diffusers' own processors
        yield


@pytest.fixture(scope="module")
def module(card: None) -> RestorationModule:
    """On the card; `card` is asked for as it has to be there before."""
    made = build_module(tiny_config(Path(), Path()))
    made.structure_steps = 0
    return made.to("cuda")


@pytest.mark.parametrize("respace", [True, False])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_on_a_card(module: RestorationModule, name: str, respace: bool) -> None:
    settings = replace(instantiate(load_choice("sampler", name)), steps=2, respace=respace, tile=None)
    backbone = tiny_network(image_attention=(), pixel_attention=(), controlnet=False).to("cuda")
    given = {key: tensor.to("cuda") for key, tensor in tiny_inputs(batch=1).items()}
    texts = given["prompt_embeds"].repeat(2 if settings.guided else 1, 1, 1)
    priors = Priors(texts, given["image_embeds"], given["lq"])
    seeds = [torch.Generator().manual_seed(0)]
    schedule = module.noise_schedule
    done = sample(backbone, schedule, settings, given["sample"], priors, seeds, look)
    assert done.device.type == "cuda"


def look(step: Step) -> None:
    step.preview()


@torch.no_grad()
def test_a_photo_is_restored_on_a_card_whole_and_in_regions(module: RestorationModule) -> None:
    settings = Sampler(
        steps=1, guidance=3.0, region=64, colour="wavelet", fidelity=0.5, tile=16, overlap=4, tile_tokens="tile"
    )
    lq = photo(6, 17).to("cuda")[None]
    work = Restoration(module.pipeline, lq, ["a house"], (24, 68), [0], settings, look, plain(lq.device))
    for done in (work.whole(), work.in_regions()):
        assert done.images.device.type == "cuda"


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_runs_on_a_card(module: RestorationModule, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [torch.Generator().manual_seed(0)]
    monkeypatch.setattr(module, "generators", lambda count: seeds)
    hq = photo(32, 32).to("cuda")[None]
    with cpu_attention(module.backbone, hq.device, remember=False):
        loss = module.training_step(Batch(hq, hq[..., ::4, ::4], ["a house"], ["a"]), 0)
    assert loss.device.type == "cuda"  # gradients need a driver: autograd's thread of the device asks for it

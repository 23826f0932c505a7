"""Nothing that stayed on the CPU meets what is on a graphics card, and the CPU does not wait for the card.

A fake card shows it where there is none.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback
from torch import Tensor

from sspir.batch import Batch
from sspir.config.compose import config_root, load_choice
from sspir.data.loading import Loaded, collate
from sspir.models.attention_processor import CPUAttnProcessor, cpu_attention
from sspir.models.controlled_unet import ControlledUNet
from sspir.sampling.loop import Priors, Step, sample
from sspir.sampling.precision import plain
from sspir.sampling.restoration import Restoration
from sspir.sampling.sampler import WITHOUT_MEMORY, Sampler
from sspir.training.callbacks import EMA
from sspir.training.module import RestorationModule
from sspir.training.progress import Pace, StepProgress
from sspir.training.run import build_module
from sspir.training.updates import SkipNaN
from tests.fake_card import Event, FakeCard, trainer_on_card
from tests.networks import XL, tiny_inputs, tiny_network, tiny_unet
from tests.pipelines import photo
from tests.runs import CONSISTENCY, ONE_STEP, SCORE, tiny_config

SAMPLERS = sorted(path.stem for path in (config_root() / "conf" / "sampler").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def card() -> Iterator[FakeCard]:
    with pytest.MonkeyPatch.context() as patch, FakeCard() as card:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 16 * 2**30))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(CPUAttnProcessor, "__call__", None)  # a card attends by diffusers' own processors
        yield card


@pytest.fixture(scope="module")
def module(card: FakeCard) -> RestorationModule:
    """On the card; `card` is asked for as it has to be there before."""
    made = build_module(tiny_config(Path(), Path()))
    made.structure_steps = 0
    return made.to("cuda")


@pytest.mark.parametrize("respace", [True, pytest.param(False, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_on_a_card_and_waits_for_none(
    card: FakeCard, module: RestorationModule, name: str, respace: bool
) -> None:
    settings = replace(instantiate(load_choice("sampler", name)), steps=3, respace=respace, tile=None)
    if not respace and settings.scheduler not in {kind.__name__ for kind in WITHOUT_MEMORY}:
        settings = replace(settings, start=None)
    backbone = tiny_network(image_attention=(), pixel_attention=(), controlnet=False).to("cuda")
    waits, done = sampled(card, backbone, module, settings)
    assert done.device.type == "cuda"
    if settings.scheduler in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler"):
        assert waits == []
    assert {file for file, _ in (wait.split(": ", 1) for wait in waits)} <= {"torch_utils.py", *SOLVERS}


SOLVERS = [f"scheduling_{name}.py" for name in ("ddim", "ddpm", "lcm", "unipc_multistep", "utils")]
"""Those of diffusers which send numbers of their own to the card at every step, or draw noise on the CPU."""


def sampled(
    card: FakeCard, backbone: ControlledUNet, module: RestorationModule, settings: Sampler
) -> tuple[list[str], Tensor]:
    """Where steps waited, but for the first two, and the result; each step is looked at."""
    given = {key: tensor.to("cuda") for key, tensor in tiny_inputs(batch=1).items()}
    texts = given["prompt_embeds"].repeat(2 if settings.guided else 1, 1, 1)
    features, _ = backbone.structure(given["lq"])
    waits: list[str] = []

    def look(step: Step) -> None:
        step.preview()
        waits[:] = card.waits if step.number > 2 else []
        if step.number == 2:
            card.waits.clear()

    seeds = [torch.Generator().manual_seed(0)]
    priors = Priors(texts, given["image_embeds"], features)
    return waits, sample(backbone, module.noise_schedule, settings, given["sample"], priors, seeds, look)


@pytest.mark.thorough
@torch.no_grad()
def test_tiles_and_xl_wait_for_nothing(card: FakeCard, module: RestorationModule) -> None:
    backbone = tiny_network(unet=tiny_unet(**XL)).to("cuda")
    settings = Sampler("DPMSolverMultistepScheduler", steps=3, guidance=3.0, tile=6, overlap=2, conditioning_scale=0.5)
    assert sampled(card, backbone, module, settings)[0] == []


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["bsrgan", "camera_light_and_strong", "light_and_strong", "realesrgan_strong"])
def test_a_degradation_waits_once_for_photons_of_images_of_one_size(card: FakeCard, name: str) -> None:
    degradation = instantiate(load_choice("degradation", name))
    hq = torch.stack([photo(32, 32, seed) for seed in range(8)]).to("cuda")
    card.waits.clear()
    assert degradation(hq, range(8)).shape == (8, 3, 8, 8)
    assert len(card.waits) <= 8  # 113 to 296 for 16 images when every constant and every image was sent or read alone
    assert {wait.split(": ")[0] for wait in card.waits} <= {"noise.py"}


def look(step: Step) -> None:
    step.preview()


@pytest.mark.thorough
@torch.no_grad()
def test_a_photo_is_restored_on_a_card_whole_and_in_regions(module: RestorationModule) -> None:
    settings = Sampler(
        steps=1, guidance=3.0, region=64, colour="wavelet", fidelity=0.5, tile=16, overlap=4, tile_tokens="tile"
    )
    lq = photo(6, 17).to("cuda")[None]
    work = Restoration(module.pipeline, lq, ["a house"], (24, 68), [0], settings, look, plain(lq.device))
    for done in (work.whole(), work.in_regions()):
        assert done.images.device.type == "cuda"


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(  # peft cannot move a LoRA of fake weights to the card: the score is the kind without
    "changes",
    [
        [],
        ONE_STEP,
        *(
            pytest.param(changes, marks=pytest.mark.thorough)
            for changes in ([*ONE_STEP, "objective.noised=true"], [*SCORE, "objective.kind=csd"], CONSISTENCY)
        ),
    ],
)
def test_a_training_step_runs_on_a_card(changes: list[str], half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    module = build_module(tiny_config(Path(), Path(), "module.structure_steps=0", *changes)).to("cuda")
    for network in module.objective.networks():
        network.to("cuda")
    module.config["init"] = "another run"
    module.objective.prepare(module)
    seeds = [torch.Generator().manual_seed(0)]
    monkeypatch.setattr(module, "generators", lambda count: seeds)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(torch.autograd, "backward", lambda loss: None)
    module._trainer = SimpleNamespace(global_step=0, accumulate_grad_batches=1)
    hq = photo(64, 64).to("cuda")[None]
    autocast = torch.autocast("cuda", torch.bfloat16, half, cache_enabled=False)
    with cpu_attention(module.backbone, hq.device, remember=False), autocast:
        loss = module.training_step(Batch(hq, hq[..., ::4, ::4], ["a house"], ["a"]), 0)
    assert loss.device.type == "cuda"  # gradients need a driver: autograd's thread of the device asks for it


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_step_waits_for_nothing_but_captions(
    card: FakeCard, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it but the gradients, in both parts of `experiments=tiny`; the first steps of each make the logs."""
    config = tiny_config(tmp_path, photo_folder, "module.structure_steps=2")
    module, data = build_module(config), instantiate(config.data)
    waits: list[list[str]] = []

    class Watch(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            card.waits.clear()

        def on_train_batch_end(self, *_: object) -> None:
            waits.append([wait.split(": ")[0] for wait in card.waits])

    def backward(loss: Tensor) -> None:
        for part in module.trainable().values():
            for parameter in part.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    monkeypatch.setattr(module, "backward", backward)
    monkeypatch.setattr("sspir.data.datamodule.collate", pinned)
    trainer = trainer_on_card(
        callbacks=[StepProgress(), Pace(), EMA(), SkipNaN(), Watch()], max_steps=4, gradient_clip_val=1.0,
        limit_val_batches=0, log_every_n_steps=100, logger=False, enable_checkpointing=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.optimizers[0].param_groups[0]["fused"]
    assert (waits[1], waits[3]) == ([], ["measured.py"])


def pinned(views: list) -> Loaded:
    """As a loader with `pin_memory` gives a batch."""
    batch = collate(views)
    return {key: each.pin_memory() if isinstance(each, Tensor) else each for key, each in batch.items()}

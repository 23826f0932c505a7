"""The memory estimate against what real tensors take."""

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Trainer
from torch.nn import functional as F

from sspir.batch import Batch
from sspir.config.compose import compose_config
from sspir.doctor.memory import LiveBytes, _loss, estimate_step
from sspir.doctor.needs import shapes
from sspir.pretrained.load import shapes_only
from sspir.training.run import build_module
from tests.needs import needs
from tests.runs import ONE_STEP, SCORE

TINY = ["experiments=tiny", "captioner=none"]


def built(shapes: bool, *overrides: str):
    config = compose_config("train", [*TINY, *overrides])
    config.module.metrics = {}
    if not shapes:
        return build_module(config)
    with shapes_only():
        return instantiate(config.module, _convert_="all")


def test_live_bytes_follow_tensors() -> None:
    kept = torch.zeros(1000)
    live = LiveBytes([kept])
    with live:
        first = kept + 1  # 4,000 bytes
        second = first.view(10, 100)  # the same bytes
        assert live.now == 4000
        del first
        assert live.now == 4000
        third = second * 2
        del second
        assert (live.now, live.peak) == (4000, 8000)
        kept.add_(1)
        assert live.now == 4000
    del third


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("checkpointing", "dtype"),
    [
        (False, torch.bfloat16),
        (True, None),
        pytest.param(False, None, marks=pytest.mark.slow),
        pytest.param(True, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_without_contents_it_takes_what_it_takes_with_them(checkpointing: bool, dtype: torch.dtype | None) -> None:
    overrides = [f"module.gradient_checkpointing={str(checkpointing).lower()}"]
    precision = "bf16-mixed" if dtype else "32-true"
    estimated = estimate_step(built(True, *overrides), 4, 64, precision, False).passing
    module = built(False, *overrides).train()
    live = LiveBytes([*module.parameters(), *module.buffers()])
    with live:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = _loss(module, 4, 64)
        loss.backward()
    assert estimated == pytest.approx(live.peak, rel=0.01)


@pytest.mark.slow
def test_one_step_counts_the_decoder_the_distance_and_the_discriminator() -> None:
    parts = [
        "objective=one_step",
        "sampler.steps=1",
        "module.structure_steps=0",
        "objective.adversary.network.width=16",
    ]
    parts.append("module.caption_dropout=0")
    without = ["objective.terms.lpips.weight=0", "objective.adversary=null"]
    alone, judged = (
        estimate_step(built(True, *parts, *less), 2, 64, "32-true", averaged=True) for less in (without, [])
    )
    module = built(True, *parts)
    discriminator, vgg = (
        4 * sum(p.numel() for p in network.parameters()) for network in reversed([*module.objective.networks()])
    )
    assert judged.weights - alone.weights == vgg + discriminator
    assert judged.optimizer - alone.optimizer == 2 * discriminator
    assert (judged.trained, judged.averaged) == (alone.trained, alone.averaged)
    real = built(False, *parts, without[0]).train()
    real.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    real.log_dict = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    real.generators = lambda count: [torch.Generator().manual_seed(n) for n in range(count)]  # type: ignore[method-assign]
    held = [*real.parameters(), *real.buffers(), *real.objective.adversary.network.parameters()]
    live = LiveBytes(held)
    with live:
        real.training_step(
            Batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64), ["", ""], ["0", "1"]), 0
        ).backward()
    estimated = estimate_step(built(True, *parts, without[0]), 2, 64, "32-true", averaged=False).passing
    assert estimated == pytest.approx(live.peak, rel=0.1)


@pytest.mark.slow
def test_what_keeps_a_copy_counts_what_it_does_not_share() -> None:
    needs("peft", "lora")
    csd = [*SCORE, "module.freeze=[backbone.processor.front.*]", "objective.kind=csd"]
    vsd = [each for each in csd if each != "objective.kind=csd"]
    plain = [*ONE_STEP, "objective.adversary=null", "module.freeze=[backbone.processor.front.*]"]
    modules = [built(True, *changes) for changes in (plain, csd, vsd)]
    for module in modules:
        module.config["init"] = "another run"
    without, copied, learning = (estimate_step(module, 16, 96, "32-true", averaged=True) for module in modules)
    learned = sum(p.numel() for part in modules[0].trainable().values() for p in part.parameters() if p.requires_grad)
    assert copied.weights - without.weights == 4 * learned  # the front, which is frozen, is shared
    assert (copied.optimizer, copied.passing) == (without.optimizer, without.passing)
    lora = sum(p.numel() for p in modules[2].objective.companion.parameters)
    assert learning.weights - copied.weights == 4 * lora
    assert learning.optimizer - copied.optimizer == 2 * 4 * lora
    assert learning.passing > 1.2 * copied.passing  # what the copy computes comes on top


@pytest.mark.slow
def test_parts_of_the_estimate() -> None:
    module, functions, met = built(True), (F.linear, F.conv2d, F.scaled_dot_product_attention), []
    module.refine.register_forward_hook(lambda *_: met.append((F.linear, F.conv2d, F.scaled_dot_product_attention)))
    estimate = estimate_step(module, 2, 64, "32-true", averaged=True)
    assert met == [functions]  # other threads go on with torch as it is
    trained = sum(p.numel() for part in module.trainable().values() for p in part.parameters())
    assert estimate.trained == trained
    assert estimate.trained + estimate.frozen == sum(p.numel() for p in module.parameters())
    assert estimate.weights == 4 * (estimate.trained + estimate.frozen)
    assert (estimate.optimizer, estimate.averaged) == (8 * trained, 4 * trained)
    assert estimate.passing > 4 * trained
    shared = estimate_step(built(True), 2, 64, "32-true", averaged=True, processes=4)
    assert (shared.optimizer, shared.averaged, shared.passing) == (2 * trained, trained, estimate.passing)
    assert estimate.weights - shared.weights == 3 * trained  # the U-Net is trained, the encoders are everybody's
    larger = estimate_step(built(True), 4, 64, "32-true", averaged=False)
    assert larger.passing > estimate.passing


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["ssp_ir_lora", "ssp_ir_one_step"])
def test_an_experiment_for_a_card_of_24_gb_fits_one(experiment: str) -> None:
    needs("peft", "lora")
    config = compose_config("train", [f"experiments={experiment}", "captioner=none"])
    module, trouble = shapes(config)
    assert module is not None, trouble
    estimate = estimate_step(module, config.batch_size, config.dataset.train.crop.size, config.trainer.precision, True)
    assert estimate.total < 22 * 2**30
    assert estimate.optimizer == 8 * estimate.trained + 8 * taught(module)
    assert estimate.weights < 7 * 2**30


def taught(module) -> int:
    """How many weights the discriminator has, if there is one."""
    return sum(p.numel() for network in module.objective.networks() for p in network.parameters() if p.requires_grad)

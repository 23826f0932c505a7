"""What a GPU replays is what it computed before, for other photos and after every change of the network."""

import copy
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sspir.device import Replays, replayed, replaying
from sspir.device.replay import KEPT
from sspir.evaluation.costs import costs_of_run
from sspir.models.lora import add_lora, lora_switched_off
from sspir.peers import cost
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler
from sspir.training import module as training
from sspir.training.checkpoint import load_checkpoint
from sspir.training.run import find_checkpoint
from tests.fake_graph import FakeGraph, fake_graphs
from tests.needs import needs
from tests.networks import tiny_inputs, tiny_network, wake
from tests.pipelines import photo, tiny_pipeline
from tests.runs import CONSISTENCY, ONE_STEP, SCORE, tiny_run


@pytest.fixture(autouse=True)
def graphs() -> Iterator[type[FakeGraph]]:
    with fake_graphs() as made:
        yield made


@pytest.fixture
def pipeline() -> RestorationPipeline:
    pipeline = copy.deepcopy(tiny_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def restored(pipeline: RestorationPipeline, seed: int = 0, height: int = 24, **changes: Any) -> Tensor:
    settings = {"steps": 2, "guidance": 3.0, "start": 500, **changes}
    return pipeline(photo(height, 20, seed), "a house", seed=seed, output_type="pt", **settings).images[0]


def plainly(pipeline: RestorationPipeline, *arguments: Any, **settings: Any) -> Tensor:
    kept, pipeline.replays = pipeline.replays, None
    done = restored(pipeline, *arguments, **settings)
    pipeline.replays = kept
    return done


def count(graphs: type[FakeGraph]) -> int:
    return sum(graph.replays for graph in graphs.made)


@pytest.mark.parametrize(
    "changes",
    [
        {"tile": 8, "overlap": 2},
        *(pytest.param(each, marks=pytest.mark.thorough) for each in ({}, {"guidance": 1.0}, {"start": None})),
    ],
)
def test_the_second_photo_of_a_shape_is_replayed_to_the_last_bit(
    graphs: type[FakeGraph], pipeline: RestorationPipeline, changes: dict
) -> None:
    assert torch.equal(restored(pipeline, 0, **changes), plainly(pipeline, 0, **changes))
    assert graphs.made == []
    for seed in (1, 2):
        before = count(graphs)
        assert torch.equal(restored(pipeline, seed, **changes), plainly(pipeline, seed, **changes))
        assert count(graphs) >= before + 6  # steps, structure, encoder, decoder, tokens of captions and of images


@pytest.mark.thorough
def test_the_eighth_step_of_a_photo_is_replayed(graphs: type[FakeGraph], pipeline: RestorationPipeline) -> None:
    assert torch.equal(restored(pipeline, steps=10), plainly(pipeline, steps=10))
    assert [graph.replays for graph in graphs.made] == [3]


@pytest.mark.thorough
def test_what_is_counted_is_no_replay(
    graphs: type[FakeGraph], pipeline: RestorationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "SIDE", 24)
    costs_of_run(pipeline, Sampler(steps=2, start=500), {})
    assert graphs.made == []
    assert pipeline.replays is not None


def test_photos_of_ever_new_sizes_are_never_recorded(graphs: type[FakeGraph], pipeline: RestorationPipeline) -> None:
    for height in range(16, 48, 8):
        restored(pipeline, height=height, steps=1)
    assert {function.__name__ for function, kept in pipeline.replays._recordings.items() if kept} == {"encode_ids"}


def test_what_steps_return_is_not_overwritten_by_the_next(pipeline: RestorationPipeline) -> None:
    seen: list[Tensor] = []
    for seed in (0, 1):
        seen.clear()
        pipeline(photo(seed=seed), "", seed=seed, on_step=lambda step: seen.append(step.preview()), steps=3)
    pipeline.replays = None
    alone: list[Tensor] = []
    pipeline(photo(seed=1), "", seed=1, on_step=lambda step: alone.append(step.preview()), steps=3)
    assert all(map(torch.equal, seen, alone))


@pytest.mark.thorough
def test_a_change_of_weights_is_seen(graphs: type[FakeGraph], pipeline: RestorationPipeline) -> None:
    for seed in (0, 1):
        restored(pipeline, seed)
    made = len(graphs.made)
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(1.5)  # in its place: recordings read it there
    assert torch.equal(restored(pipeline, 2), plainly(pipeline, 2))
    assert len(graphs.made) == made
    pipeline.in_dtype("bfloat16")  # other places
    for seed in (3, 4):
        assert torch.equal(restored(pipeline, seed), plainly(pipeline, seed))
    assert len(graphs.made) > made


@pytest.mark.thorough
def test_another_strength_is_another_recording(pipeline: RestorationPipeline) -> None:
    for scale in (1.0, 0.5, 1.0, 0.5):
        assert torch.equal(
            restored(pipeline, 1, conditioning_scale=scale), plainly(pipeline, 1, conditioning_scale=scale)
        )


@pytest.mark.thorough
def test_another_strength_of_an_adapter_is_seen(graphs: type[FakeGraph], pipeline: RestorationPipeline) -> None:
    needs("peft", "lora")
    add_lora({"unet": pipeline.unet}, rank=2)
    wake(pipeline.unet)
    layers = [layer for layer in pipeline.unet.modules() if hasattr(layer, "set_scale")]
    pictures = []
    for change in (
        lambda layer: None,
        lambda layer: layer.set_scale("default", 3.0),
        lambda layer: layer.enable_adapters(False),
    ):
        for layer in layers:
            change(layer)
        pictures += [restored(pipeline, seed) for seed in (0, 1)]
        made = len(graphs.made)
        assert torch.equal(pictures[-1], plainly(pipeline, 1))
        assert torch.equal(restored(pipeline, 1), pictures[-1])
        assert len(graphs.made) == made
    assert not torch.equal(pictures[1], pictures[3])
    assert not torch.equal(pictures[3], pictures[5])


def test_nothing_is_recorded_of_a_network_that_waits_elsewhere(
    graphs: type[FakeGraph], pipeline: RestorationPipeline
) -> None:
    pipeline.unet._hf_hook = type("Hook", (), {"pre_forward": staticmethod(lambda part: None)})()
    for seed in (0, 1, 2):
        restored(pipeline, seed)
    assert graphs.made == []


@pytest.mark.thorough
def test_hooks_are_called(graphs: type[FakeGraph], pipeline: RestorationPipeline) -> None:
    for seed in (0, 1):
        restored(pipeline, seed)
    calls: list[int] = []
    hook = pipeline.unet.conv_out.register_forward_hook(lambda *_: calls.append(1))
    restored(pipeline, 2)
    assert len(calls) == 2
    hook.remove()
    replays = count(graphs)
    for seed in (3, 4):
        restored(pipeline, seed)
    assert count(graphs) > replays


def test_a_change_of_mode_or_of_what_learns_is_seen() -> None:
    net, replays = nn.Sequential(Net(3, 3), nn.BatchNorm1d(3)), Replays(training=True)
    double = replayed(lambda net, values: net(values))
    for step in range(12):
        net.train(step < 6)
        net[0].weight.requires_grad_(step % 6 < 3)
        values = torch.randn(4, 3)
        own = copy.deepcopy(net)
        with replaying(replays, [net]):
            double(net, values).square().sum().backward()
        own(values).square().sum().backward()
        assert torch.allclose(net[0].bias.grad, own[0].bias.grad), step
        assert (net[0].weight.grad is None) == (own[0].weight.grad is None)
        net.zero_grad()


def test_a_replayed_step_refuses_a_second_backward() -> None:
    net, replays = Net(3, 3), Replays(training=True)
    for _ in range(3):
        with replaying(replays, [net]):
            loss = net.double(torch.ones(1, 3)).sum()
        loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"module\.capture=false"):
        loss.backward()


def test_nobody_replays_within_what_launches() -> None:
    net, outer = Net(3, 3), Replays()
    for _ in range(3):
        with replaying(outer, [net]), replaying(None, [net]), torch.no_grad():
            net.double(torch.ones(1, 3))
    assert not outer._recordings


def test_copies_begin_anew(pipeline: RestorationPipeline) -> None:
    for seed in (0, 1):
        restored(pipeline, seed)
    for copied in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline.replays))):
        replays = copied.replays if isinstance(copied, RestorationPipeline) else copied
        assert isinstance(replays, Replays)
        assert not replays._recordings


class Net(nn.Linear):
    @replayed
    def double(self, values: Tensor, factor: int = 2) -> Tensor:
        return factor * self(values)

    @replayed
    def read(self, values: Tensor) -> float:
        return self(values).sum().item()


@torch.no_grad()
def test_the_last_shapes_are_kept(graphs: type[FakeGraph]) -> None:
    net, replays = Net(3, 3), Replays()
    for _ in range(2):
        for rows in range(1, KEPT + 2):
            with replaying(replays, [net]):
                assert torch.equal(net.double(torch.ones(rows, 3)), 2 * net(torch.ones(rows, 3)))
    (recordings,) = replays._recordings.values()
    assert len(recordings) == KEPT
    assert len(graphs.made) == KEPT + 1


@torch.no_grad()
def test_what_cannot_be_recorded_is_computed_and_told_once(
    graphs: type[FakeGraph], caplog: pytest.LogCaptureFixture
) -> None:
    net, replays = Net(3, 3), Replays()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            with replaying(replays, [net]):
                assert net.read(torch.ones(1, 3)) == net(torch.ones(1, 3)).sum().item()
    (record,) = caplog.records
    assert record.getMessage() == "read is not replayed: called a synchronizing CUDA operation"
    assert not graphs.made  # a recording that broke off would leave torch's random numbers unusable


@torch.no_grad()
def test_who_runs_out_of_memory_gets_what_recordings_hold() -> None:
    net, replays = Net(3, 3), Replays()
    for _ in range(2):
        with replaying(replays, [net]):
            net.double(torch.ones(1, 3))
    assert replays._recordings
    with pytest.raises(torch.OutOfMemoryError), replaying(replays, [net]):
        raise torch.OutOfMemoryError
    assert not replays._recordings


def test_gradients_of_a_function_that_is_called_twice_in_a_step_are_not_mixed(graphs: type[FakeGraph]) -> None:
    torch.manual_seed(0)
    net, replays = Net(3, 3), Replays(training=True)
    for step in range(4):
        given, more = torch.randn(2, 3), torch.randn(2, 3)
        with replaying(replays, [net]):
            (net.double(given).square().sum() + net.double(more).sum()).backward()
        found, net.weight.grad, net.bias.grad = net.weight.grad, None, None
        (2 * net(given)).square().sum().add((2 * net(more)).sum()).backward()
        assert found is not None
        assert torch.equal(found, net.weight.grad), step
        net.weight.grad = net.bias.grad = None
    assert [graph.replays for graph in graphs.made] == [2, 2]  # forward and backward, once a step


def test_what_has_no_gradient_is_replayed_without(graphs: type[FakeGraph]) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.still, self.learning = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)

        @replayed
        def run(self, values: Tensor) -> Tensor:
            return self.still(values)

    net, replays = Half(), Replays(training=True)
    for _ in range(4):
        values = torch.randn(2, 3)
        with replaying(replays, [net]):
            assert torch.equal(net.run(values), net.still(values))
    assert [graph.replays for graph in graphs.made] == [2]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [
        ["module.structure_steps=1"],
        pytest.param([*ONE_STEP, "objective.adversary.weight=0.1", "objective.noised=true"], marks=pytest.mark.slow),
        pytest.param([*SCORE, "init=base"], marks=pytest.mark.slow),
        pytest.param([*CONSISTENCY, "init=base"], marks=pytest.mark.slow),
    ],
)
def test_training_that_is_replayed_is_the_same_training(
    graphs: type[FakeGraph], photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str]
) -> None:
    if "init=base" in changes:
        needs("peft", "lora")
        monkeypatch.chdir(tmp_path)
        tiny_run(tmp_path / "base", photo_folder, "module.structure_steps=0", "data.passes=4", "module.capture=false")
    steps = ["trainer.max_steps=7", "schedule.num_training_steps=7", "trainer.limit_val_batches=0", *changes]
    plain = tiny_run(tmp_path / "plain", photo_folder, *steps)
    assert graphs.made == []
    monkeypatch.setattr(training, "alone", lambda trainer: True)
    made = tiny_run(tmp_path / "replayed", photo_folder, *steps)
    losses = [{key: value for key, value in done.items() if key.startswith("loss/")} for done in (plain, made)]
    assert losses[0] == losses[1]
    assert losses[0]
    states = [load_checkpoint(find_checkpoint(tmp_path / name, "last"))["state_dict"] for name in ("plain", "replayed")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert max(graph.replays for graph in graphs.made) >= 4
    off = len(graphs.made)
    tiny_run(tmp_path / "off", photo_folder, *steps, "module.capture=false")
    assert len(graphs.made) == off


def test_adapters_are_replayed_as_they_have_become_and_not_where_they_are_switched_off(
    graphs: type[FakeGraph],
) -> None:
    needs("peft", "lora")
    base, given = wake(tiny_network()), tiny_inputs()
    network = copy.deepcopy(base)
    add_lora({"unet": network.unet, "controlnet": network.controlnet}, rank=2)
    wake(network)
    adapters = [weight for key, weight in network.named_parameters() if "lora_" in key]
    features, _ = base.structure(given.pop("lq"))
    replays = Replays(training=True)

    def predict(net: nn.Module) -> Tensor:
        return net.predict(*given.values(), features.detach())

    for step in range(4):
        expected = predict(network)
        gradients = torch.autograd.grad(expected.square().sum(), adapters)
        with replaying(replays, [network], again=not step):
            made = predict(network)
            assert torch.equal(made, expected)
            for mine, other in zip(torch.autograd.grad(made.square().sum(), adapters), gradients, strict=True):
                assert torch.allclose(mine, other, atol=1e-5)
            with torch.no_grad():
                assert torch.equal(predict(network), expected)
                with lora_switched_off(network):
                    assert torch.equal(predict(network), predict(base))
        with torch.no_grad():
            for weight, gradient in zip(adapters, gradients, strict=True):
                weight.sub_(gradient, alpha=1e-3)
    assert sum(graph.replays for graph in graphs.made) >= 2

"""diffusers' offloading of a pipeline whose forward runs the networks' layers one by one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

from sspir.errors import UserError
from sspir.models import controlled_unet, latent
from sspir.sampling.pipeline import RestorationPipeline
from tests.devices import DEVICES, same
from tests.pipelines import photo, tiny_pipeline

LQ = photo(16, 12)


@pytest.fixture
def pipeline(tmp_path: Path) -> RestorationPipeline:
    tiny_pipeline().save_pretrained(tmp_path)
    made = RestorationPipeline.from_pretrained(tmp_path)
    made.set_progress_bar_config(disable=True)
    return made


def restored(pipeline: RestorationPipeline) -> torch.Tensor:
    return pipeline(LQ, "a house", steps=2, output_type="pt").images[0]


def networks(pipeline: RestorationPipeline) -> dict[str, nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


class Elsewhere(ModelHook):
    """Keeps a part's weights where nothing can be computed with them, until its `pre_forward` is called."""

    execution_device = torch.device("cpu")

    def init_hook(self, module: nn.Module) -> nn.Module:
        self.weights = dict(module.named_parameters()) | dict(module.named_buffers())
        return module.to("meta")

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for name, weight in self.weights.items():
            path, _, last = name.rpartition(".")
            holder = module.get_submodule(path)
            (holder._parameters if last in holder._parameters else holder._buffers)[last] = weight
        return args, kwargs


def test_every_part_is_fetched_before_its_layers_run(pipeline: RestorationPipeline) -> None:
    wanted = restored(tiny_pipeline())
    for part in networks(pipeline).values():
        add_hook_to_module(part, Elsewhere())
    assert {part.device.type for part in networks(pipeline).values()} == {"meta"}
    assert torch.equal(pipeline.restore(LQ[None], ["a house"], sampler=pipeline.settings(steps=2)).images[0], wanted)


@pytest.mark.parametrize("user", [controlled_unet, latent])
def test_unfetched_it_would_compute_with_nothing(
    pipeline: RestorationPipeline, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = restored(pipeline)
    for part in networks(pipeline).values():
        add_hook_to_module(part, Elsewhere())
    monkeypatch.setattr(user, "fetch", lambda part: None)
    with suppress(RuntimeError, NotImplementedError):  # some kernels of torch take what is not there without a word
        assert not torch.equal(restored(pipeline), wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_model_offloading_calls_each_hook_and_changes_nothing(
    pipeline: RestorationPipeline, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.hooks import CpuOffload

    wanted, fetched = restored(pipeline.to(device)), []
    before = CpuOffload.pre_forward
    monkeypatch.setattr(
        CpuOffload, "pre_forward", lambda self, module, *a, **k: fetched.append(module) or before(self, module, *a, **k)
    )
    pipeline.to("cpu").enable_model_cpu_offload(device=device)
    assert same(restored(pipeline), wanted)
    assert {id(part) for part in fetched} == {id(part) for part in networks(pipeline).values()}
    assert same(restored(pipeline), wanted)  # hooks were put back for the next call
    assert pipeline.unet.device.type == "cpu"


@pytest.mark.thorough
@pytest.mark.parametrize("device", DEVICES)
def test_sequential_offloading_keeps_no_weights_and_changes_nothing(
    pipeline: RestorationPipeline, device: str, tmp_path: Path
) -> None:
    wanted = restored(pipeline.to(device))
    pipeline.to("cpu")
    if device == "cuda":
        pipeline.enable_sequential_cpu_offload(device=device)
    for part in (
        networks(pipeline).values() if device == "cpu" else ()
    ):  # what that does; it knows no execution on a CPU
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    for _ in range(2):
        assert same(restored(pipeline), wanted)
    for name in ("unet", "controlnet", "text_encoder", "image_encoder", "processor", "unet_pixel"):
        assert {parameter.device.type for parameter in getattr(pipeline, name).parameters()} == {"meta"}, name
    with pytest.raises(UserError, match=r"cannot be saved; call remove_all_hooks\(\) first"):
        pipeline.save_pretrained(tmp_path / "again")
    pipeline.remove_all_hooks()
    pipeline.save_pretrained(tmp_path / "again")
    assert same(restored(RestorationPipeline.from_pretrained(tmp_path / "again").to(device)), wanted)

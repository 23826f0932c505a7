"""A network whose weights are shared over processes is the same network; here with a single process."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sspir.training.strategy import UNITS, full_tensor, shard, shared_as
from tests.devices import DEVICES, TOLERANCE, same
from tests.networks import tiny_inputs, tiny_network, wake


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def mesh(device: str, tmp_path: Path) -> Iterator[Any]:
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group({"cpu": "gloo", "cuda": "nccl"}[device], store=store, rank=0, world_size=1)
    yield init_device_mesh(device, (1,))
    distributed.destroy_process_group()


def test_a_shared_network_predicts_and_learns_the_same(mesh: Any, device: str) -> None:
    network = wake(tiny_network()).train().to(device)
    shared, given = copy.deepcopy(network), {name: tensor.to(device) for name, tensor in tiny_inputs().items()}
    shard(shared, mesh)
    shard(shared, mesh)  # a second time changes nothing
    assert all(isinstance(parameter, DTensor) for parameter in shared.parameters())
    assert all(isinstance(module, FSDPModule) for module in shared.modules() if isinstance(module, UNITS))
    losses = [net(**given).noise.square().mean() for net in (network, shared)]
    assert same(*losses)
    for loss in losses:
        loss.backward()
    theirs = dict(network.named_parameters())
    for name, parameter in shared.named_parameters():
        wanted = theirs[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        tolerance = 1e-7 if device == "cpu" else TOLERANCE
        assert wanted is None or torch.allclose(full_tensor(parameter.grad), wanted, atol=tolerance), name
    assert {name for name, p in theirs.items() if p.grad is None} == {
        name
        for name in theirs
        if name.startswith(("unet.", "processor."))  # frozen, and in no loss
    }


def test_a_whole_tensor_is_shared_and_back(mesh: Any, device: str) -> None:
    network = tiny_network().to(device)
    kept = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    shard(network, mesh)
    for name, parameter in network.named_parameters():
        assert torch.equal(full_tensor(parameter), kept[name])
        assert shared_as(kept[name], parameter).placements == parameter.placements
    plain = torch.ones(3, device=device)
    assert full_tensor(plain) is plain
    assert not isinstance(shared_as(plain, torch.zeros(3, device=device)), DTensor)

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
from tests.networks import tiny_inputs, tiny_network, wake


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_a_shared_network_predicts_and_learns_the_same(mesh: Any) -> None:
    network = wake(tiny_network()).train()
    shared, given = copy.deepcopy(network), tiny_inputs()
    shard(shared, mesh)
    shard(shared, mesh)  # a second time changes nothing
    assert all(isinstance(parameter, DTensor) for parameter in shared.parameters())
    assert all(isinstance(module, FSDPModule) for module in shared.modules() if isinstance(module, UNITS))
    losses = [net(**given).noise.square().mean() for net in (network, shared)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    theirs = dict(network.named_parameters())
    for name, parameter in shared.named_parameters():
        wanted = theirs[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        assert wanted is None or torch.allclose(full_tensor(parameter.grad), wanted, atol=1e-7), name
    assert {name for name, p in theirs.items() if p.grad is None} == {
        name
        for name in theirs
        if name.startswith(("unet.", "processor."))  # frozen, and in no loss
    }


def test_a_whole_tensor_is_shared_and_back(mesh: Any) -> None:
    network = tiny_network()
    kept = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    shard(network, mesh)
    for name, parameter in network.named_parameters():
        assert torch.equal(full_tensor(parameter), kept[name])
        assert shared_as(kept[name], parameter).placements == parameter.placements
    plain = torch.ones(3)
    assert full_tensor(plain) is plain
    assert not isinstance(shared_as(plain, torch.zeros(3)), DTensor)

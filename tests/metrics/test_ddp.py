"""Two processes give the mean of one: the sums and counts are added, not the means averaged."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from sspir.metrics.fidelity import PSNR


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(5, 3, 16, 16, generator=generator)
    scale = torch.tensor([0.01, 0.05, 0.1, 0.2, 0.4]).view(5, 1, 1, 1)
    return (target + scale * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    preds, target = images()
    metric = PSNR()
    mine = slice(0, 1) if rank == 0 else slice(1, 5)  # uneven on purpose
    metric.update(preds[mine], target[mine])
    (folder / f"{rank}").write_text(repr(metric.compute().item()))
    dist.destroy_process_group()


@pytest.mark.skipif(os.name == "nt", reason="gloo over a file needs a POSIX system")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    other = mp.get_context("spawn").Process(target=work, args=(1, tmp_path))
    other.start()
    work(0, tmp_path)
    other.join()
    preds, target = images()
    whole = PSNR()
    whole.update(preds, target)
    for rank in range(2):
        assert float((tmp_path / f"{rank}").read_text()) == pytest.approx(whole.compute().item(), abs=1e-6)

"""Two processes give the mean of one: the sums and counts are added, not the means averaged."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio

from sspir.data.order import Share
from sspir.errors import UserError
from sspir.metrics import PerceptualMetric
from sspir.metrics.base import ImageMetric, metric_of
from sspir.metrics.psnr_ssim import PSNR, SSIM
from sspir.training.validation import Validation
from tests.distances import random_network
from tests.processes import SERVER


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(5, 3, 32, 32, generator=generator)
    scale = torch.tensor([0.01, 0.05, 0.1, 0.2, 0.4]).view(5, 1, 1, 1)
    return (target + scale * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def validated(rank: int, world: int) -> dict[str, float]:
    """A set of five images and one of a single image, and an image of the last process that failed."""
    preds, target = images()
    validation = Validation({"psnr_y": PSNR()})
    for name, count in (("five", 5), ("one", 1)):
        share = Share(count, 1, rank, world)
        for number, (index,) in enumerate(share):
            validation.enter(name, share.counts(number))
            rows = {"val": preds[[index]]} | ({"structure": preds[[index]]} if name == "five" else {})
            validation.update(rows, target[[index]])
    validation.troubles["failed"] = int(rank == world - 1)
    return {name: float(value) for name, value in validation.finish().items()}


def metrics(folder: Path) -> dict[str, ImageMetric]:
    found: dict[str, ImageMetric] = {"ours": PSNR(), "torchmetrics": metric_of(PeakSignalNoiseRatio(data_range=1.0))}
    return found | {name: PerceptualMetric(name, folder / f"{name}.safetensors") for name in ("lpips", "dists")}


def refused(rank: int) -> str:
    """What is said where one process lacks a metric."""
    try:
        Validation({"psnr_y": PSNR(), "ssim_y": SSIM()} if rank else {"psnr_y": PSNR()}).enter("set")
    except UserError as error:
        return str(error)
    return ""


def work(rank: int, folder: Path) -> None:
    place, patience = f"file://{folder}/meet", timedelta(minutes=2)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2, timeout=patience)
    preds, target = images()
    mine = slice(0, 1) if rank == 0 else slice(1, 5)  # uneven on purpose
    for name, metric in metrics(folder).items():
        metric.update(preds[mine], target[mine])
        (folder / f"{name}{rank}").write_text(repr(metric.compute().item()))
    (folder / f"validation{rank}").write_text(json.dumps(validated(rank, 2)))
    (folder / f"refused{rank}").write_text(refused(rank))
    dist.destroy_process_group()


@pytest.mark.skipif(os.name == "nt", reason="gloo over a file needs a POSIX system")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    for name in ("lpips", "dists"):
        save_file(random_network(name).features.state_dict(), tmp_path / f"{name}.safetensors")
    other = SERVER.Process(target=work, args=(1, tmp_path))
    other.start()
    work(0, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    preds, target = images()
    for name, whole in metrics(tmp_path).items():
        whole.update(preds, target)
        for rank in range(2):
            found = float((tmp_path / f"{name}{rank}").read_text())
            assert found == pytest.approx(whole.compute().item(), abs=1e-6), name
    for rank in range(2):
        assert json.loads((tmp_path / f"validation{rank}").read_text()) == pytest.approx(validated(0, 1), abs=1e-6)
        assert "Not every process can measure ssim_y;" in (tmp_path / f"refused{rank}").read_text()
    assert not refused(1)
    assert validated(0, 1).keys() >= {"val/one/psnr_y", "structure/five/psnr_y", "val/failed"}
    assert "structure/one/psnr_y" not in validated(0, 1)

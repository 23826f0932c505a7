"""Metrics of torchmetrics, image by image."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, TotalVariation

from sspir.errors import UserError
from sspir.evaluation.measure import measure_image
from sspir.metrics.base import metric_of, to_pixels
from sspir.metrics.niqe import NIQE, niqe
from sspir.metrics.psnr_ssim import PSNR

GENERATOR = torch.Generator().manual_seed(0)
HQ = to_pixels(torch.rand(4, 3, 24, 24, generator=GENERATOR)) / 255
NOISE = torch.tensor([0.01, 0.05, 0.1, 0.2]).view(4, 1, 1, 1) * torch.randn(HQ.shape, generator=GENERATOR)
PREDS = to_pixels(HQ + NOISE) / 255


class Undirected(TotalVariation):
    higher_is_better = None


def test_each_image_is_measured_alone_and_the_mean_is_over_images() -> None:
    plain = metric_of(PeakSignalNoiseRatio(data_range=1.0))
    assert (plain.needs_reference, plain.higher_is_better) == (True, True)
    alone = torch.stack(
        [PeakSignalNoiseRatio(data_range=1.0)(*each) for each in zip(PREDS.split(1), HQ.split(1), strict=True)]
    )
    assert torch.equal(plain.score(PREDS, HQ), alone.double())
    logged = MetricCollection({"psnr": plain}, prefix="val/").clone()
    logged.update(PREDS[:1], HQ[:1])
    logged.update(PREDS[1:], HQ[1:])
    assert torch.allclose(logged.compute()["val/psnr"], alone.mean())
    assert not torch.allclose(alone.mean(), PeakSignalNoiseRatio(data_range=1.0)(PREDS, HQ))  # of all pixels


def test_values_are_taken_to_where_float64_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfAnotherDevice(torch.Tensor):
        """What a device without float64 gives."""

        device = torch.device("mps")  # type: ignore[assignment]  # a property

        def cpu(self) -> Tensor:  # type: ignore[override]
            return self.as_subclass(Tensor)

        def to(self, *arguments: Any, **options: Any) -> Tensor:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    plain = metric_of(PeakSignalNoiseRatio(data_range=1.0))
    monkeypatch.setattr(plain.metric, "forward", lambda *_: torch.tensor(20.0).as_subclass(OfAnotherDevice))
    assert plain.score(PREDS, HQ).tolist() == [20.0] * 4


def test_metrics_without_a_truth_are_measured_where_there_is_one_and_where_there_is_none() -> None:
    plain = metric_of(TotalVariation())
    assert not plain.needs_reference
    metrics = {"variation": plain, "psnr": metric_of(PeakSignalNoiseRatio(data_range=1.0))}
    finer = PREDS[0] + torch.rand(PREDS[0].shape, generator=GENERATOR) * 0.4 / 255  # than its file would hold
    (row,) = measure_image(metrics, "a", {"ours": finer})
    assert row.values == {"variation": TotalVariation()(PREDS[:1]).item()}
    (row,) = measure_image(metrics, "a", {"ours": PREDS[0]}, HQ[0])
    assert row.values.keys() == metrics.keys()
    large = torch.nn.functional.interpolate(PREDS[:2], (96, 192), mode="bicubic").clamp(0, 1)
    for metric in (plain, NIQE()):
        validated = MetricCollection({"it": metric})
        validated.update(large, large)  # as validation does, with the truth
        assert validated.compute()["it"] > 0
    assert torch.allclose(NIQE()(large).float(), niqe(large).mean())


def test_images_that_are_measured_at_once_do_not_mix() -> None:
    plain = metric_of(PeakSignalNoiseRatio(data_range=1.0))
    wanted = plain.score(PREDS, HQ).tolist() * 20
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda n: plain.score(PREDS[n % 4][None], HQ[n % 4][None]).item(), range(80))
        assert list(found) == wanted


def test_what_cannot_be_measured_is_said() -> None:
    assert isinstance(metric_of(PSNR()), PSNR)
    with pytest.raises(UserError, match="Undirected has no direction; set higher_is_better in its class"):
        metric_of(Undirected())
    (row,) = measure_image({"several": metric_of(Several())}, "a", {"ours": PREDS[0]}, HQ[0])
    assert "Several does not give an image one number" in row.problems["several"]


class Several(Metric):
    higher_is_better = True

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.found = (preds - target).abs().mean((0, 2, 3))

    def compute(self) -> Tensor:
        return self.found

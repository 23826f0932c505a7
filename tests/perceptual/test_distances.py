"""LPIPS and DISTS: other implementations with equal weights, laws, and the values that authors published per image."""

import csv
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Literal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity, lpip

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.images.io import read_image
from sspir.metrics import PerceptualMetric
from sspir.metrics.base import MetricUnavailableError
from sspir.objectives import PerceptualLoss
from sspir.perceptual import LPIPS
from sspir.perceptual import weights as weights_module
from sspir.perceptual.networks import L2Pool
from sspir.perceptual.weights import DISTANCES, _ArrayUnpickler, _convolutions, find_trunk, get_trunk, load_distance
from tests.distances import random_network
from tests.needs import lacks
from tests.runs import tiny_run

SHARED = Path(os.environ.get("SSPIR_SHARED", Path(__file__).parents[3] / "shared"))
SETS = SHARED / "data" / "benchmarks"


def pictures(count: int = 2, height: int = 47, width: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(count, 3, height, width, generator=generator)
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_pictures_are_at_distance_zero_and_images_do_not_see_their_batch(name: str) -> None:
    network = random_network(name)
    preds, target = pictures()
    assert network(target, target).abs().max() < 1e-6
    together = network(preds, target)
    assert together.shape == (2,)
    assert (together > 1e-3).all()
    apart = torch.cat([network(preds[n : n + 1], target[n : n + 1]) for n in range(2)])
    assert torch.allclose(together, apart, atol=1e-6)
    assert torch.allclose(network(target, preds), together, atol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    network = random_network(name).double()
    preds, target = (images.double() for images in pictures(1, 33, 32))
    direction = torch.randn(preds.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    preds.requires_grad_()
    (gradient,) = torch.autograd.grad(network(preds, target).sum(), preds)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        step = 1e-6 * direction
        ahead, behind = (network(preds + sign * step, target).sum() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind).item() / 2e-6, rel=1e-3)


@pytest.mark.parametrize("name", DISTANCES)
def test_half_precision_around_it_changes_nothing(name: str) -> None:
    network = random_network(name)
    preds, target = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        surrounded = network(preds, target)
    assert torch.allclose(surrounded, network(preds, target), atol=1e-3)


@pytest.mark.parametrize("name", ["lpips", "lpips_vgg"])
def test_lpips_is_that_of_its_authors(name: str) -> None:
    lpips = pytest.importorskip("lpips")
    ours = random_network(name)
    assert isinstance(ours, LPIPS)
    theirs = lpips.LPIPS(
        net="alex" if name == "lpips" else "vgg", pretrained=False, pnet_rand=True, verbose=False
    ).eval()
    convolutions = [module for module in theirs.net.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        for mine, other in zip(ours.features.convolutions, convolutions, strict=True):
            other.load_state_dict(mine.state_dict())
        for head, layer in zip(ours.heads, theirs.lins, strict=True):
            layer.model[-1].weight.copy_(head.view(1, -1, 1, 1))
        preds, target = pictures()
        assert torch.allclose(ours(preds, target), theirs(preds, target, normalize=True).flatten(), atol=1e-6)


@pytest.mark.parametrize(("name", "net"), [("lpips", "alex"), pytest.param("lpips_vgg", "vgg", marks=pytest.mark.slow)])
def test_lpips_is_that_of_torchmetrics(
    name: str, net: Literal["alex", "vgg"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal weights of the features; the heads, which each package brings, must be equal by themselves."""
    features = {key: value for key, value in random_network(name).state_dict().items() if key.startswith("features")}
    path = tmp_path / "features.safetensors"
    save_file({key.removeprefix("features."): value for key, value in features.items()}, path)
    ours = PerceptualMetric(name, path)
    monkeypatch.setattr(lpip, "_NoTrainLpips", partial(lpip._NoTrainLpips, pnet_rand=True))  # fetches nothing
    theirs = LearnedPerceptualImagePatchSimilarity(net, normalize=True)
    with torch.no_grad():
        convolutions = [module for module in theirs.net.net.modules() if isinstance(module, torch.nn.Conv2d)]
        for place, convolution in enumerate(convolutions):
            for kind in ("weight", "bias"):
                getattr(convolution, kind).copy_(features[f"features.convolutions.{place}.{kind}"])
    preds, target = ((images * 255).round() / 255 for images in pictures(3))
    for metric in (ours, theirs):
        metric.update(preds[:1], target[:1])
        metric.update(preds[1:], target[1:])
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_loss_may_compute_features_in_bfloat16(name: str, tmp_path: Path) -> None:
    save_file(random_network(name).features.state_dict(), tmp_path / "trunk.safetensors")
    preds, target = pictures(1, 64, 64)
    found = []
    for precision in ("32", "bf16"):
        loss = PerceptualLoss(name, tmp_path / "trunk.safetensors", precision)
        loss.load()
        seen = preds.clone().requires_grad_()
        value = loss(seen, target)
        (gradient,) = torch.autograd.grad(value, seen)
        found.append((value.item(), gradient.flatten()))
    (full, slope), (half, rough) = found
    assert half == pytest.approx(full, rel=0.05)
    assert half != full
    assert torch.cosine_similarity(slope, rough, dim=0) > 0.8
    with pytest.raises(UserError, match="choose 32 or bf16"):
        PerceptualLoss(name, precision="16")


def test_pooling_of_a_constant_is_the_constant() -> None:
    assert torch.allclose(L2Pool()(torch.full((1, 2, 9, 8), 0.7))[..., 1:-1, 1:-1], torch.tensor(0.7))


@pytest.mark.parametrize(("name", "shape"), [("lpips", (1, 3, 31, 64)), ("dists", (1, 3, 64, 16))])
def test_small_pictures_are_one_sentence(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="sides from 32 pixels"):
        random_network(name)(torch.zeros(shape), torch.zeros(shape))


def test_missing_weights_are_one_sentence_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match="sspir weights get dists"):
        PerceptualMetric("dists").require()
    with pytest.raises(UserError, match="lpips_vgg"):
        load_distance("lpipps")
    (tmp_path / "alexnet.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="get them again"):
        PerceptualMetric("lpips").require()


def test_an_archive_of_arrays_is_read_and_one_with_code_is_not(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).random((3, 2, 4, 5), dtype=np.float32)
    tree = {"Conv_0": {"kernel": kernel, "bias": np.zeros(5, np.float32)}}
    old = pickle.dumps(tree, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old").write_bytes(old)
    with (tmp_path / "old").open("rb") as file:
        weights = _convolutions(_ArrayUnpickler(file).load())
    assert weights["convolutions.0.weight"].shape == (5, 4, 3, 2)
    assert weights["convolutions.0.weight"][1, 2, 0, 1] == kernel[0, 1, 2, 1]
    (tmp_path / "evil").write_bytes(pickle.dumps({"a": os.system}))
    with (tmp_path / "evil").open("rb") as file, pytest.raises(pickle.UnpicklingError, match="is no array"):
        _ArrayUnpickler(file).load()


def published(folder: Path, count: int) -> list[tuple[Tensor, Tensor, dict[str, float]]]:
    with (folder / "osediff_published.csv").open() as file:
        rows = list(csv.DictReader(file))[:count]
    return [
        (*(read_image(folder / kind / row["image"]).tensor()[None] for kind in ("osediff", "HQ")), row) for row in rows
    ]


@pytest.mark.parametrize(
    ("name", "count"),
    [("lpips", 3), ("dists", 1), *(pytest.param(name, 100, marks=pytest.mark.slow) for name in ("lpips", "dists"))],
)
@pytest.mark.parametrize("benchmark", ["realsr_dev", pytest.param("drealsr_dev", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("cache_of_user")
def test_values_are_those_that_osediff_published(name: str, count: int, benchmark: str) -> None:
    if not (SETS / benchmark).is_dir():
        pytest.skip("the benchmark is not here")
    if find_trunk(DISTANCES[name]) is None:
        lacks(f"the weights of {name} are not here: sspir weights get {name}")
    metric = PerceptualMetric(name)
    for preds, target, row in published(SETS / benchmark, count):
        assert metric.score(preds, target).item() == pytest.approx(float(row[name]), abs=1e-4), row["image"]


def test_a_damaged_file_is_got_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path))
    features = random_network("lpips").features.state_dict()
    monkeypatch.setattr(weights_module, "_from_server", lambda *_: features)
    file = tmp_path / "alexnet.safetensors"
    file.write_bytes(b"of a full disk")
    assert get_trunk("alexnet") == file
    assert load_file(file).keys() == features.keys()
    monkeypatch.setattr(weights_module, "_from_server", None)
    assert get_trunk("alexnet") == file


def test_the_command_names_what_there_is(capsys: pytest.CaptureFixture) -> None:
    assert main(["weights", "get", "lpip"]) == 2
    assert (
        "choose among lpips, lpips_vgg, dists, efficientnet_lite0, realesrgan, span, span_ch48, all"
        in capsys.readouterr().err
    )


@pytest.mark.thorough
def test_a_training_measures_what_it_has_weights_for_and_keeps_to_it(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "alexnet.safetensors"
    features = random_network("lpips").features
    save_file({key: value for key, value in features.state_dict().items() if "convolutions" in key}, weights)
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path))
    changes = ["trainer.max_steps=2", "monitor=lpips"]
    found = tiny_run(tmp_path / "run", photo_folder, *changes)
    assert found["val/lpips"] > 0
    assert found["bicubic/lpips"] > 0
    weights.unlink()
    with pytest.raises(UserError, match=r"has measured lpips so far: .*sspir weights get lpips"):
        tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=4", "monitor=lpips")
    with pytest.raises(UserError, match="monitor=lpips is not validated"):
        tiny_run(tmp_path / "without", photo_folder, *changes)
    tiny_run(tmp_path / "without", photo_folder, "trainer.max_steps=2")
    assert "lpips is not measured: lpips needs the weights of alexnet" in caplog.text
    recorded = OmegaConf.load(tmp_path / "without" / "config.yaml")
    assert "lpips" not in {**recorded.metric, **recorded.module.metrics}


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_pictures_beside_one_truth_are_measured_as_alone(name: str, tmp_path: Path) -> None:
    save_file(random_network(name).features.state_dict(), tmp_path / "trunk.safetensors")
    first, second, third = (torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(n)) for n in range(3))
    pairs = [(first, second), (third, second), (second, third), (first, second), (second, second)]
    metric = PerceptualMetric(name, tmp_path / "trunk.safetensors")
    together = [metric.score(*pair).item() for pair in pairs]
    alone = [PerceptualMetric(name, tmp_path / "trunk.safetensors").score(*pair).item() for pair in pairs]
    assert together == alone
    assert len(set(together)) == 3  # both are symmetric


def test_images_that_are_measured_at_one_time_have_their_own_truths(tmp_path: Path) -> None:
    save_file(random_network("lpips").features.state_dict(), tmp_path / "trunk.safetensors")
    images = [torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(n)) for n in range(24)]
    metric = PerceptualMetric("lpips", tmp_path / "trunk.safetensors")
    metric.require()
    with ThreadPoolExecutor(4) as pool:
        distances = list(pool.map(lambda image: metric.score(image, image).item(), images * 3))
    assert distances == [0.0] * 72


def test_a_truth_is_looked_at_once_by_each_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(random_network("lpips").features.state_dict(), tmp_path / "trunk.safetensors")
    metric, looked = PerceptualMetric("lpips", tmp_path / "trunk.safetensors"), list[int]()
    truths = [torch.full((1, 3, 40, 33), value / 4) for value in range(2)]
    metric.require()
    maps = LPIPS.maps
    monkeypatch.setattr(LPIPS, "maps", lambda self, images: looked.append(1) or maps(self, images))
    together = Barrier(2)

    def measure(truth: torch.Tensor) -> None:
        for _ in range(3):
            metric.score(truth + 0.1, truth)
            together.wait(60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, truths))
    assert len(looked) == 2 * (1 + 3)

"""PSNR and SSIM against a second implementation in numpy, published facts, and the field's known mistakes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate1d
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from sspir.errors import UserError
from sspir.metrics import base
from sspir.metrics.psnr_ssim import MSSSIM, PSNR, SSIM, ms_ssim, psnr, ssim

SHARED = Path(os.environ.get("SSPIR_SHARED", Path(__file__).parents[3] / "shared"))
BENCHMARKS = SHARED / "data" / "benchmarks"
needs_benchmarks = pytest.mark.skipif(
    not (BENCHMARKS / "realsr_dev").is_dir(), reason="no published outputs; set SSPIR_SHARED to their folder"
)
BT601 = np.array([65.481, 128.553, 24.966]) / 255


def numpy_luma(image: np.ndarray) -> np.ndarray:
    return 16 + image.astype(np.float64) @ BT601


def numpy_psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(1 / (np.mean(((a - b) / 255) ** 2) + 1e-8)))


def numpy_ssim(a: np.ndarray, b: np.ndarray) -> float:
    offset = np.arange(-5, 6)
    kernel = np.exp(-(offset**2) / 4.5) / np.exp(-(offset**2) / 4.5).sum()

    def window(plane: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(plane, kernel, axis=0), kernel, axis=1)[5:-5, 5:-5]

    mean_a, mean_b = window(a), window(b)
    covariance = window(a * b) - mean_a * mean_b
    variances = window(a * a) - mean_a**2 + window(b * b) - mean_b**2
    structure = np.clip((2 * covariance + 58.5225) / (variances + 58.5225), 0, None)
    luminance = (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
    return float((structure * luminance).mean())


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from skimage import data

    return np.asarray(data.astronaut())[100:301, 60:263]  # odd sizes on purpose


@pytest.fixture(scope="module")
def noisy(photo: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 12, photo.shape)
    return np.clip(np.round(photo + noise), 0, 255).astype(np.uint8)


def test_agrees_with_numpy(photo: np.ndarray, noisy: np.ndarray) -> None:
    y = numpy_luma(noisy), numpy_luma(photo)
    assert psnr(tensor(noisy), tensor(photo)).item() == pytest.approx(numpy_psnr(*y), abs=1e-5)
    rounded = np.round(y[0]), np.round(y[1])
    assert ssim(tensor(noisy), tensor(photo)).item() == pytest.approx(numpy_ssim(*rounded), abs=1e-5)
    rgb = noisy.astype(np.float64), photo.astype(np.float64)
    assert psnr(tensor(noisy), tensor(photo), "rgb").item() == pytest.approx(numpy_psnr(*rgb), abs=1e-5)
    per_channel = [numpy_ssim(rgb[0][..., c], rgb[1][..., c]) for c in range(3)]
    assert ssim(tensor(noisy), tensor(photo), "rgb").item() == pytest.approx(np.mean(per_channel), abs=1e-5)


def test_crop_is_a_smaller_image(photo: np.ndarray, noisy: np.ndarray) -> None:
    inner = (slice(4, -4), slice(4, -4))
    for measure in (psnr, ssim):
        cropped = measure(tensor(noisy), tensor(photo), "y", 4)
        assert torch.equal(cropped, measure(tensor(noisy[inner]), tensor(photo[inner])))
        assert not torch.equal(cropped, measure(tensor(noisy), tensor(photo)))


def test_full_range_y_is_the_known_decibels_off(photo: np.ndarray, noisy: np.ndarray) -> None:
    """The field's classic gap: YIQ's Y lowers PSNR by 20 log10(255/219) = 1.3219 dB."""
    yiq = np.array([0.299, 0.587, 0.114])
    wrong = numpy_psnr(noisy.astype(np.float64) @ yiq, photo.astype(np.float64) @ yiq)
    assert psnr(tensor(noisy), tensor(photo)).item() - wrong == pytest.approx(1.3219, abs=2e-3)


def test_float_images_are_measured_as_saved_files(photo: np.ndarray, noisy: np.ndarray) -> None:
    jitter = (torch.rand(tensor(noisy).shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.9 / 255
    for measure in (psnr, ssim):
        assert torch.equal(measure(tensor(noisy) + jitter, tensor(photo)), measure(tensor(noisy), tensor(photo)))


def test_ms_ssim_agrees_with_torchmetrics(photo: np.ndarray, noisy: np.ndarray) -> None:
    ours = ms_ssim(tensor(noisy), tensor(photo), "rgb")
    scale = torch.full((1,), 255.0)
    theirs = multiscale_structural_similarity_index_measure(
        tensor(noisy) * scale, tensor(photo) * scale, data_range=255.0, normalize="relu"
    )
    # torchmetrics multiplies the means over channels of each scale, and keeps the window's border
    assert ours.item() == pytest.approx(theirs.item(), abs=5e-3)


@pytest.mark.parametrize(
    ("height", "width", "value"),
    [(201, 203, 0.975401), (177, 180, 0.973671), (161, 203, 0.973372), (192, 176, 0.974030)],
)
def test_ms_ssim_halves_odd_sides_as_pyiqa_does(height: int, width: int, value: float, photo: np.ndarray) -> None:
    """Values of pyiqa's recipe in float64: odd sides get a border of zeros, which counts, before they are halved."""
    image = photo[:height, :width]
    assert ms_ssim(tensor(image // 32 * 32 + 16), tensor(image)).item() == pytest.approx(value, abs=2e-6)


def test_ms_ssim_takes_the_least_sides_that_it_names_and_refuses_smaller_ones() -> None:
    image = torch.rand(1, 3, 184, 161, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(image, image).item() == pytest.approx(1)
    for least, crop in ((image[..., :160], 0), (image, 4)):
        with pytest.raises(UserError, match=r"^MS-SSIM needs sides of at least 161 pixels, got \(\d+, 1(60|53)\)"):
            ms_ssim(least, least, crop=crop)


@pytest.mark.parametrize(("measure", "best"), [(psnr, 80.0), (ssim, 1.0), (ms_ssim, 1.0)])
def test_identity_symmetry_and_monotony_under_noise(measure, best: float, photo: np.ndarray) -> None:
    truth = tensor(photo)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    worse = [(truth + sigma * noise).clamp(0, 1) for sigma in (0.02, 0.05, 0.1, 0.2)]
    values = [measure(image, truth).item() for image in worse]
    assert measure(truth, truth).item() == pytest.approx(best)
    assert values == sorted(values, reverse=True)
    assert measure(worse[0], truth) == pytest.approx(measure(truth, worse[0]))


def test_batches_and_ranks_do_not_change_the_mean(photo: np.ndarray) -> None:
    truth = torch.cat([tensor(photo), tensor(photo[::-1].copy()), tensor(photo[:, ::-1].copy())])
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    preds = (truth + noise * torch.tensor([0.02, 0.05, 0.2]).view(3, 1, 1, 1)).clamp(0, 1)
    whole, parts = PSNR(), PSNR()
    whole.update(preds, truth)
    for i in range(3):
        parts.update(preds[i : i + 1], truth[i : i + 1])
    assert parts.compute().item() == pytest.approx(whole.compute().item(), abs=1e-5)
    assert whole.compute().item() == pytest.approx(psnr(preds, truth).mean().item(), abs=1e-5)


@pytest.mark.parametrize("metric", [PSNR(), SSIM(), MSSSIM()])
def test_bad_input_is_named(metric) -> None:
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(UserError, match="one size"):
        metric.update(image, torch.rand(1, 3, 8, 9))
    with pytest.raises(UserError, match="one size"):
        metric.update(torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8))
    with pytest.raises(UserError, match="NaN"):
        metric.update(image.clone().fill_(float("nan")), image)
    if not isinstance(metric, PSNR):
        with pytest.raises(UserError, match="at least"):
            metric.update(image, image)
    with pytest.raises(UserError, match="leaves nothing"):
        type(metric)(crop=4).update(image, image)
    with pytest.raises(UserError, match="'y' or 'rgb'"):
        type(metric)(channels="yiq")


def test_one_pixel_has_a_psnr() -> None:
    assert psnr(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)).item() == pytest.approx(1.3219, abs=1e-3)


@needs_benchmarks
@pytest.mark.parametrize("name", ["realsr_dev", "drealsr_dev"])
def test_published_outputs(name: str) -> None:
    """Ten of the published pairs of each set: equal to the recipe, and unequal to its known misreadings."""
    ours: dict[str, list[float]] = {"psnr": [], "ssim": []}
    recipe: dict[str, list[float]] = {"psnr": [], "ssim": []}
    mistakes: dict[str, list[float]] = {"yiq": [], "unrounded": [], "crop": []}
    for path in sorted((BENCHMARKS / name / "HQ").iterdir()):
        truth = np.asarray(Image.open(path).convert("RGB"))
        restored = np.asarray(Image.open(BENCHMARKS / name / "osediff" / path.name).convert("RGB"))
        a, b = numpy_luma(restored), numpy_luma(truth)
        ours["psnr"].append(psnr(tensor(restored), tensor(truth)).item())
        ours["ssim"].append(ssim(tensor(restored), tensor(truth)).item())
        recipe["psnr"].append(numpy_psnr(a, b))
        recipe["ssim"].append(numpy_ssim(np.round(a), np.round(b)))
        mistakes["yiq"].append(numpy_psnr((a - 16) * 255 / 219, (b - 16) * 255 / 219))
        mistakes["unrounded"].append(numpy_ssim(a, b))
        mistakes["crop"].append(psnr(tensor(restored), tensor(truth), crop=4).item())
    for key, values in ours.items():
        assert round(np.mean(values), 4) == round(np.mean(recipe[key]), 4)
    assert np.mean(ours["psnr"]) - np.mean(mistakes["yiq"]) == pytest.approx(1.3219, abs=2e-3)
    assert 0.0003 < np.mean(mistakes["unrounded"]) - np.mean(ours["ssim"]) < 0.003
    assert abs(np.mean(mistakes["crop"]) - np.mean(ours["psnr"])) > 0.01


def test_sums_stay_where_float64_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "WITHOUT_FLOAT64", ("meta",))
    metric = PSNR().to("meta")
    images = torch.rand(2, 3, 16, 16)
    metric.update(images, images / 2)
    assert (metric.total.device.type, metric.total.dtype) == ("cpu", torch.float64)
    assert metric.compute() == psnr(images, images / 2).mean()
    monkeypatch.setattr(base, "WITHOUT_FLOAT64", ())
    assert metric.to("meta").total.device.type == "meta"

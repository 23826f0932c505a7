"""The measures without weights: against second implementations, and laws that all of them keep."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import convolve, correlate
from torch import Tensor
from torchmetrics.functional.image import visual_information_fidelity

from sspir.errors import UserError
from sspir.metrics.base import FullReferenceMetric
from sspir.metrics.cvvdp import ColorVideoVDP
from sspir.metrics.detail import ColorShift, GradientRatio, HighFrequencyRatio, to_lab
from sspir.metrics.structural import GMSD, VIF, HaarPSI
from tests.needs import needs

METRICS = [VIF(), HaarPSI(), GMSD(), HighFrequencyRatio(), GradientRatio(), ColorShift()]
by_class = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    from skimage import data

    image = np.asarray(data.astronaut())[100:233, 60:201]
    return torch.from_numpy(image.transpose(2, 0, 1) / 255).float()[None]


@pytest.fixture(scope="module")
def noise(photo: Tensor) -> Tensor:
    return torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))


def grey(image: Tensor) -> Tensor:
    return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)


@by_class
def test_identity_is_the_best_value(metric: FullReferenceMetric, photo: Tensor) -> None:
    ideal = metric.ideal if metric.ideal is not None else float(bool(metric.higher_is_better))
    assert metric.score(photo, photo).item() == pytest.approx(ideal, abs=1e-5)


@by_class
def test_more_noise_is_farther_from_it(metric: FullReferenceMetric, photo: Tensor, noise: Tensor) -> None:
    values = [metric.score((photo + s * noise).clamp(0, 1), photo).item() for s in (0.01, 0.05, 0.15)]
    assert values == sorted(values, reverse=bool(metric.higher_is_better))


@by_class
def test_bad_input_is_named(metric: FullReferenceMetric, photo: Tensor) -> None:
    with pytest.raises(UserError, match="one size"):
        metric.update(photo, photo[..., 1:])
    with pytest.raises(UserError, match="NaN"):
        metric.update(photo * float("nan"), photo)
    if not isinstance(metric, ColorShift):
        with pytest.raises(UserError, match="at least"):
            metric.update(photo[..., :1, :1], photo[..., :1, :1])


def damaged(photo: Tensor, noise: Tensor) -> list[Tensor]:
    images = ((photo + 0.05 * noise).clamp(0, 1), F.avg_pool2d(photo, 5, stride=1, padding=2), 1 - photo)
    return [(image * 255).round() / 255 for image in images]


def test_vif_agrees_with_torchmetrics(photo: Tensor, noise: Tensor) -> None:
    for preds in damaged(photo, noise):
        theirs = visual_information_fidelity(grey(preds) * 255, grey(photo) * 255)
        assert VIF().score(preds, photo).item() == pytest.approx(theirs.item(), abs=1e-4)


@pytest.mark.parametrize(("metric", "name"), [(VIF(), "vif_p"), (GMSD(), "gmsd"), (HaarPSI(), "haarpsi")])
def test_agrees_with_piq(metric: FullReferenceMetric, name: str, photo: Tensor, noise: Tensor) -> None:
    piq = needs("piq", "dev")
    for preds in damaged(photo, noise):
        for size in ((133, 141), (132, 141), (100, 96)):  # odd and even sides
            a, b = (image[..., : size[0], : size[1]] for image in (preds, photo))
            assert metric.score(a, b).item() == pytest.approx(getattr(piq, name)(a, b).item(), abs=1e-4)


def test_gmsd_agrees_with_its_formulas(photo: Tensor, noise: Tensor) -> None:
    preds = ((photo + 0.05 * noise).clamp(0, 1) * 255).round() / 255
    prewitt = np.array([[1, 0, -1]] * 3) / 3

    def gradient(image: Tensor) -> np.ndarray:
        plane = F.avg_pool2d(F.pad(grey(image), (0, 1, 0, 1)), 2)[0, 0].double().numpy()
        return np.hypot(convolve(plane, prewitt, mode="constant"), convolve(plane, prewitt.T, mode="constant"))

    a, b = gradient(preds), gradient(photo)
    constant = 170 / 255**2
    similarity = (2 * a * b + constant) / (a**2 + b**2 + constant)
    assert GMSD().score(preds, photo).item() == pytest.approx(similarity.std(), abs=2e-3)


def numpy_haarpsi(restored: Tensor, truth: Tensor) -> float:
    """Reisenhofer et al. 2018, section 3, on halved YIQ in 0..255, C = 30, alpha = 4.2."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])

    def planes(image: Tensor) -> np.ndarray:
        full = np.einsum("kc,chw->khw", yiq, image[0].double().numpy() * 255)
        return np.stack([correlate(plane, np.full((2, 2), 0.25), mode="constant")[1::2, 1::2] for plane in full])

    def haar(plane: np.ndarray, scale: int, vertical: bool) -> np.ndarray:
        size = 2**scale
        kernel = np.ones((size, size)) / size
        kernel[: size // 2] = -1 / size
        return np.abs(correlate(plane, kernel.T if vertical else kernel, mode="constant", origin=-1))

    def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (2 * a * b + 30) / (a**2 + b**2 + 30)

    a, b = planes(restored), planes(truth)
    similarities, weights = [], []
    for vertical in (False, True):
        similarities.append(sum(similarity(haar(a[0], s, vertical), haar(b[0], s, vertical)) for s in (1, 2)) / 2)
        weights.append(np.maximum(haar(a[0], 3, vertical), haar(b[0], 3, vertical)))
    mean = np.full((2, 2), 0.25)
    smooth = [[np.abs(correlate(image[k], mean, mode="constant", origin=-1)) for image in (a, b)] for k in (1, 2)]
    similarities.append(sum(similarity(*pair) for pair in smooth) / 2)
    weights.append((weights[0] + weights[1]) / 2)
    squashed = 1 / (1 + np.exp(-4.2 * np.stack(similarities)))
    mean_of_all = (squashed * weights).sum() / np.sum(weights)
    return float((np.log(mean_of_all / (1 - mean_of_all)) / 4.2) ** 2)


def test_haarpsi_agrees_with_its_formulas(photo: Tensor, noise: Tensor) -> None:
    even, even_noise = photo[..., :132, :140], noise[..., :132, :140]
    for image in ((even + 0.08 * even_noise).clamp(0, 1), F.avg_pool2d(even, 5, stride=1, padding=2)):
        preds = (image * 255).round() / 255
        assert HaarPSI().score(preds, even).item() == pytest.approx(numpy_haarpsi(preds, even), abs=1e-4)


def test_lab_agrees_with_scikit_image(photo: Tensor) -> None:
    from skimage.color import rgb2lab

    theirs = rgb2lab(photo[0].permute(1, 2, 0).numpy())
    assert to_lab(photo)[0].permute(1, 2, 0).numpy() == pytest.approx(theirs, abs=2e-2)


def test_color_shift_sees_a_cast_and_no_detail(photo: Tensor, noise: Tensor) -> None:
    flat = torch.full_like(photo, 0.5)
    cast = flat + torch.tensor([8, 0, 0]).view(3, 1, 1) / 255
    expected = (to_lab((cast * 255).round() / 255) - to_lab((flat * 255).round() / 255)).norm(dim=1).mean()
    assert ColorShift().score(cast, flat).item() == pytest.approx(expected.item(), abs=1e-3)
    assert ColorShift().score(flat + 0.02 * noise, flat).item() < 0.3 * expected.item()


def test_ratios_tell_blur_from_noise(photo: Tensor, noise: Tensor) -> None:
    for metric in (HighFrequencyRatio(), GradientRatio()):
        assert metric.score(F.avg_pool2d(photo, 3, stride=1, padding=1), photo).item() < 0.9
        assert metric.score((photo + 0.1 * noise).clamp(0, 1), photo).item() > 1.1
        flat = torch.full_like(photo, 0.5)
        assert metric.score(flat, flat).item() == pytest.approx(1)


def test_color_video_vdp(photo: Tensor, noise: Tensor) -> None:
    needs("pycvvdp", "perceptual")
    metric = ColorVideoVDP()
    assert metric.score(photo, photo).item() == pytest.approx(10)
    values = [metric.score((photo + s * noise).clamp(0, 1), photo).item() for s in (0.02, 0.1)]
    assert 10 > values[0] > values[1] > 0


def test_color_video_vdp_names_a_display_that_there_is_not() -> None:
    needs("pycvvdp", "perceptual")
    with pytest.raises(UserError, match=r"knows no display 'cinema' \(.*display_models.json'\); name one that stands"):
        ColorVideoVDP("cinema").require()


def test_color_video_vdp_in_threads(photo: Tensor, noise: Tensor) -> None:
    """The library's model remembers the size of its last image: threads must not share one."""
    needs("pycvvdp", "perceptual")
    metric = ColorVideoVDP()
    pairs = [((photo + 0.05 * noise).clamp(0, 1)[..., :size], photo[..., :size]) for size in (141, 96, 120, 64) * 3]
    alone = [metric.score(*pair).item() for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        assert [value.item() for value in pool.map(lambda pair: metric.score(*pair), pairs)] == alone

"""NIQE against a plain numpy implementation, its published model, and what it must and must not do."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from scipy.special import gamma
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.niqe import NIQE, niqe


@pytest.fixture(scope="module")
def photo() -> Tensor:
    from skimage import data

    image = np.asarray(data.astronaut())[200:400, 50:270]  # odd number of blocks, a rest that is cut off
    return torch.from_numpy(image.transpose(2, 0, 1) / 255).float()[None]


def fit(block: np.ndarray) -> tuple[float, float, float]:
    shapes = np.arange(0.2, 10.0005, 0.001)
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left = np.sqrt(np.mean(block[block < 0] ** 2))
    right = np.sqrt(np.mean(block[block > 0] ** 2))
    ratio = left / right
    moment = np.mean(np.abs(block)) ** 2 / np.mean(block**2)
    shape = shapes[np.argmin((table - moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def block_features(block: np.ndarray) -> list[float]:
    shape, left, right = fit(block)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = fit(block * np.roll(block, shift, axis=(0, 1)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return features


def halve(plane: np.ndarray) -> np.ndarray:
    """Bicubic of a = -1/2 stretched to eight taps, mirrored edges, written out."""
    distance = np.abs((np.arange(8) - 3.5) / 2)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far)
    taps /= taps.sum()
    for _ in range(2):
        padded = np.pad(plane, ((3, 3), (0, 0)), mode="symmetric")
        rows = range(0, plane.shape[0], 2)
        plane = np.stack([(padded[row : row + 8] * taps[:, None]).sum(axis=0) for row in rows]).T
    return plane


def numpy_niqe(image: np.ndarray) -> float:
    grey = np.round(image.astype(np.float64) @ [0.299, 0.587, 0.114])
    rows, columns = grey.shape[0] // 96, grey.shape[1] // 96
    grey = grey[: rows * 96, : columns * 96]
    offset = np.arange(-3, 4)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    features = []
    for plane, size in ((grey, 96), (halve(grey), 48)):
        mean = convolve(plane, window, mode="nearest")
        deviation = np.sqrt(np.abs(convolve(plane**2, window, mode="nearest") - mean**2))
        normalized = (plane - mean) / (deviation + 1)
        blocks = [
            normalized[r * size : (r + 1) * size, c * size : (c + 1) * size]
            for r in range(rows)
            for c in range(columns)
        ]
        features.append(np.array([block_features(block) for block in blocks]))
    model = np.load(str(files("sspir.metrics") / "niqe_pristine.npz"))
    both = np.concatenate(features, axis=1)
    difference = model["mean"] - both.mean(axis=0)
    inverse = np.linalg.pinv((model["covariance"] + np.cov(both, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def test_agrees_with_numpy(photo: Tensor) -> None:
    image = (photo[0] * 255).round().byte().permute(1, 2, 0).numpy()
    # flat areas hold rounding residues, whose signs the two implementations count differently
    assert niqe(photo).item() == pytest.approx(numpy_niqe(image), abs=2e-3)


def test_batch_is_its_images_and_their_mean(photo: Tensor) -> None:
    pair = torch.cat([photo, photo.flip(-1)])
    assert niqe(pair).tolist() == pytest.approx([niqe(photo).item(), niqe(photo.flip(-1)).item()], abs=1e-4)
    metric = NIQE()
    metric.update(pair)
    assert metric.compute().item() == pytest.approx(niqe(pair).mean().item(), abs=1e-5)


def test_a_picture_without_a_value_does_not_take_it_from_the_others(photo: Tensor) -> None:
    flat = torch.ones_like(photo)
    together, apart, none = NIQE(), NIQE(), NIQE()
    together.update(torch.cat([photo, flat]))
    for image in (flat, photo):
        apart.update(image)
    none.update(flat)
    assert together.compute() == apart.compute() == niqe(photo)[0]
    assert together.count == 1  # which processes add up
    assert none.compute().isnan()


def test_blur_and_strong_noise_are_worse(photo: Tensor) -> None:
    blurred = torch.nn.functional.avg_pool2d(photo, 5, stride=1, padding=2)
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    assert niqe(blurred).item() > niqe(photo).item() + 1
    assert niqe((photo + 0.2 * noise).clamp(0, 1)).item() > niqe(photo).item() + 1
    # the trap that the noise control exists for: a little noise makes a blurred photo look more natural
    assert niqe((blurred + 0.005 * noise).clamp(0, 1)).item() < niqe(blurred).item() - 0.5


def test_bad_input_is_named(photo: Tensor) -> None:
    with pytest.raises(UserError, match="two blocks"):
        niqe(photo[..., :100, :180])
    with pytest.raises(UserError, match="NaN"):
        niqe(photo * float("nan"))
    assert niqe(torch.zeros(1, 3, 200, 200)).isnan().all()  # a flat image has no statistics

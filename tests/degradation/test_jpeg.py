"""The batched JPEG is JPEG: it agrees with the library that everybody uses."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sspir.data.photos import skimage_folder
from sspir.degradation.jpeg import jpeg, jpeg_codec, quantisation_tables
from sspir.errors import UserError

PHOTOS = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]


def load(name: str) -> Tensor:
    pixels = np.asarray(Image.open(skimage_folder() / name).convert("RGB"))[:301, :333]  # odd: no whole blocks
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean() + 1e-12))


def pillow(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float() / 255


def test_agrees_with_the_real_codec_over_all_qualities() -> None:
    values = [psnr(jpeg(load(name), [q]), pillow(load(name), q)) for name in PHOTOS for q in (30, 45, 60, 75, 95)]
    assert min(values) > 48
    assert sum(values) / len(values) > 54


def test_codec_is_pillow_s() -> None:
    photo = load("astronaut.png")
    assert (jpeg_codec(photo, [40]) - pillow(photo, 40)).abs().max() < 1e-6


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 90, 100])
def test_tables_are_the_ones_in_the_files(quality: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    written = Image.open(file).quantization
    assert quantisation_tables(quality).flatten(1).tolist() == [written[0], written[1]]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (16, 16), (17, 33), (8, 40)])
def test_any_size(height: int, width: int) -> None:
    photo = load("coffee.png")[..., :height, :width]
    assert jpeg(photo, [80]).shape == photo.shape
    assert psnr(jpeg(photo, [80]), pillow(photo, 80)) > 40


def test_each_image_has_its_own_quality() -> None:
    photo = load("chelsea.png")[..., :64, :64]
    both = jpeg(torch.cat([photo, photo]), [30, 90])
    assert psnr(both[:1], jpeg(photo, [30])) > 100
    assert psnr(both[1:], photo) > psnr(both[:1], photo) + 3


def test_gradient_is_nearly_that_of_the_identity() -> None:
    photo = (load("chelsea.png")[..., :32, :32] * 0.5 + 0.25).requires_grad_()
    jpeg(photo, [95]).sum().backward()
    assert photo.grad is not None
    assert photo.grad.mean() == pytest.approx(1, abs=0.05)


def test_impossible_quality_is_refused() -> None:
    with pytest.raises(UserError, match="1 to 100"):
        jpeg(torch.zeros(1, 3, 8, 8), [0])

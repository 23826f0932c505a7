import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from scipy.ndimage import uniform_filter1d
from skimage import data as photos
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from sspir.captioners import photo_measures as measure
from sspir.captioners.base import (
    Captioner,
    CaptionError,
    Images,
    NoCaption,
    Precomputed,
    captioner_of,
    provenance_of,
)
from sspir.captioners.endpoint import EndpointCaptioner
from sspir.captioners.measured import MeasuredCaptioner
from sspir.color import luma
from sspir.config.build import build_captioner
from sspir.config.compose import load_choice
from tests.pipelines import describe

FOLDER = Path(skimage.__file__).parent / "data"
ASTRONAUT = torch.from_numpy(photos.astronaut()).permute(2, 0, 1) / 255
COFFEE = torch.from_numpy(photos.coffee()).permute(2, 0, 1) / 255


def photo(name: str) -> Tensor:
    return pil_to_tensor(Image.open(FOLDER / name).convert("RGB")) / 255


def blurred(image: Tensor, radius: float) -> Tensor:
    return pil_to_tensor(to_pil_image(image).filter(ImageFilter.GaussianBlur(radius))) / 255


def noisy(image: Tensor, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (image + sigma * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def crops(side: int = 64) -> Tensor:
    """96 crops of twelve of scikit-image's photos."""
    names = ["astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
             "gravel.png", "hubble_deep_field.jpg", "moon.png", "page.png", "rocket.jpg"]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    found = []
    for image in map(photo, names):
        for _ in range(8):
            y, x = (int(torch.randint(length - side + 1, (), generator=generator)) for length in image.shape[1:])
            found.append(image[:, y : y + side, x : x + side])
    return torch.stack(found)


def stripes(angle: int) -> Tensor:
    """A photo of nothing but a fine grating whose lines run at that angle, 0 horizontal."""
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(200.0), indexing="ij")
    turn = torch.deg2rad(torch.tensor(float(angle)))
    return (0.5 + 0.4 * torch.sin((x * turn.sin() + y * turn.cos()) / 2)).expand(3, -1, -1)


@pytest.mark.parametrize("captioner", [NoCaption(), Precomputed(), MeasuredCaptioner()])
def test_protocol(captioner: Captioner) -> None:
    images = torch.rand(3, 3, 37, 31)
    captions = captioner(images, ["a", "", "b"])
    assert len(captions) == 3
    assert all(isinstance(caption, str) and "\n" not in caption for caption in captions)
    assert captions == captioner(images, ["a", "", "b"])


def test_a_batch_gets_the_words_that_each_image_got_alone() -> None:
    """`words.json` was written by the functions that measured one image at a time."""
    images = crops()
    recorded = json.loads(Path(__file__).with_name("words.json").read_text())
    assert len(set(recorded)) > 40
    assert MeasuredCaptioner()(images, [""] * len(images)) == recorded
    assert [describe(image) for image in images[::7]] == recorded[::7]


def test_none_and_precomputed() -> None:
    images = torch.zeros(2, 3, 8, 8)
    assert NoCaption()(images, ["a cup", ""]) == ["", ""]
    assert Precomputed()(images, ["a cup", ""]) == ["a cup", ""]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coffee.png", ["landscape", "colourful", "orange", "sharp focus"]),
        ("camera.png", ["square", "black-and-white", "sharp focus"]),
        ("rocket.jpg", ["dark", "blue", "vertical lines"]),
        ("brick.png", ["repeating pattern", "black-and-white", "fine detail"]),
        ("page.png", ["bright", "repeating pattern"]),
        ("hubble_deep_field.jpg", ["dark", "mostly black"]),
        ("moon.png", ["low-contrast"]),
    ],
)
def test_says_what_people_see(name: str, said: list[str]) -> None:
    caption = describe(photo(name))
    assert [words for words in said if words not in caption] == []


@pytest.mark.parametrize(
    ("change", "word", "image"),
    [
        (lambda image: image * 0.3, "dark", ASTRONAUT),
        (lambda image: 1 - (1 - image) * 0.4, "bright", ASTRONAUT),
        (lambda image: 0.4 + image * 0.2, "low-contrast", ASTRONAUT),
        (lambda image: luma(image[None])[0].expand(3, -1, -1), "black-and-white", ASTRONAUT),
        (lambda image: blurred(image, 1.2), "soft focus", ASTRONAUT),
        (lambda image: blurred(image, 4), "blurred", ASTRONAUT),
        (lambda image: noisy(image, 0.035), "grain", ASTRONAUT),
        (lambda image: noisy(image, 0.15), "strong noise", ASTRONAUT),
        (lambda image: image[:, :, 150:400], "portrait", ASTRONAUT),
        (lambda image: image[:, :256], "landscape", ASTRONAUT),
        (lambda image: image * torch.tensor([0.1, 0.2, 1.0]).view(3, 1, 1), "mostly blue", COFFEE),
        (lambda image: image.transpose(1, 2), "portrait", COFFEE),
    ],
)
def test_words_follow_the_picture(change: Callable[[Tensor], Tensor], word: str, image: Tensor) -> None:
    assert word not in describe(image)
    assert word in describe(change(image))


def test_backlit_says_so() -> None:
    image = ASTRONAUT.clone() * 0.3
    image[:, :128] = 0.95
    image[:, :, :128], image[:, :, -128:] = 0.95, 0.95
    assert "backlit" in describe(image)


@pytest.mark.parametrize(("angle", "name"), [(0, "horizontal"), (90, "vertical"), (45, "diagonal"), (135, "diagonal")])
def test_lines_have_the_direction_they_have(angle: int, name: str) -> None:
    image = 0.9 * stripes(angle) + 0.1 * ASTRONAUT[:, :160, :200]
    assert f"{name} lines" in describe(image)
    assert "lines" not in describe(ASTRONAUT)


def test_turning_a_photo_turns_its_lines() -> None:
    upright, turned = (
        measure.lines(luma(image[None])) for image in (photo("brick.png"), photo("brick.png").rot90(1, (1, 2)))
    )
    assert abs(upright["vertical"] - turned["horizontal"]) < 0.02
    assert abs(upright["horizontal"] - turned["vertical"]) < 0.02
    assert upright["vertical"] > 0.5


def test_colours_have_the_names_people_use() -> None:
    named = {
        "red": "#d01818", "orange": "#f08a10", "yellow": "#f4dc20", "green": "#2a9a34", "turquoise": "#20c8c0",
        "blue": "#2040d0", "purple": "#7a28b8", "pink": "#f8a0c0", "brown": "#6a4020", "beige": "#e0cca8",
        "olive": "#6a6a20", "black": "#0c0c10", "grey": "#808284", "white": "#f6f6f4",
    }  # fmt: skip
    for name, code in named.items():
        rgb = torch.tensor([int(code[start : start + 2], 16) for start in (1, 3, 5)]) / 255
        shares = measure.colour_shares(rgb.view(1, 3, 1, 1).expand(-1, -1, 20, 30))
        assert measure.dominant_colours({name: share.item() for name, share in shares.items()}) == [name]


def test_blur_equals_the_paper_written_with_scipy() -> None:
    for image in (ASTRONAUT, blurred(ASTRONAUT, 2)):
        grey = luma(image[None])[0, 0].numpy()
        effects = []
        for axis in (0, 1):
            before = np.abs(np.diff(grey, axis=axis))
            after = np.abs(np.diff(uniform_filter1d(grey, 9, axis=axis, mode="nearest"), axis=axis))
            effects.append(1 - np.maximum(before - after, 0).sum() / before.sum())
        assert measure.blur(luma(image[None])) == pytest.approx(max(effects), abs=1e-4)


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_noise_is_measured_in_units_of_white(sigma: float) -> None:
    grey = 0.5 + sigma * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    assert abs(measure.noise(grey) / sigma - 1) < 0.12
    assert measure.noise(torch.full((1, 1, 64, 64), 0.5)) < 1e-6


def test_one_edge_is_no_pattern() -> None:
    edge = torch.zeros(1, 1, 128, 128)
    edge[..., 60:] = 1
    assert measure.repetition(edge) < 0.2
    assert measure.repetition(luma(photo("brick.png")[None])) > 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 5), (900, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    assert "photo" in describe(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
    assert "mostly white" not in describe(torch.zeros(3, *size))


def test_size_changes_few_words() -> None:
    half = F.interpolate(COFFEE[None], scale_factor=0.5, mode="bicubic", antialias=True)[0].clamp(0, 1)
    assert describe(half) == describe(COFFEE)


def test_a_plain_callable_answers_for_every_image_or_is_named() -> None:
    def width(images: Sequence[Tensor], known: Sequence[str]) -> list[str]:
        return [f"a photo of {image.shape[-1]} pixels" for image in images if image.shape[-1] != 13]

    captioner = captioner_of(width)
    assert captioner_of(captioner) is captioner
    assert captioner(torch.zeros(2, 3, 8, 9), ["", ""]) == ["a photo of 9 pixels"] * 2
    assert captioner.provenance()["captioner"].endswith("test_captioner." + width.__qualname__)
    captioner.close()
    with pytest.raises(CaptionError, match="for 1 images; return one text each"):
        captioner(torch.zeros(1, 3, 8, 13), [""])
    with pytest.raises(CaptionError, match=r"width failed \(TypeError: "):
        captioner(None, [""])


def say(images: Sequence[Tensor], known: Sequence[str], word: str = "a tree", key: str = "") -> list[str]:
    """A captioner of one's own that is a function."""
    return [word] * len(images)


class Saying(Captioner):
    """A captioner of one's own."""

    def __init__(self, word: str = "") -> None:
        self.word = word

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        return [self.word] * len(images)


class Telling(Saying):
    """Tells its settings itself, but not what it is."""

    def provenance(self) -> dict[str, str]:
        return {"word": self.word}


class Versioned(Saying):
    """Tells neither its settings nor what it is."""

    def provenance(self) -> dict[str, str]:
        return {"version": "1"}


def test_the_settings_of_ones_own_captioner_are_told_but_for_what_may_be_a_key() -> None:
    def told(name: str, **settings: Any) -> dict[str, str]:
        return provenance_of(build_captioner({"_target_": f"{__name__}.{name}", **settings}))

    assert told("Saying") == {"captioner": f"{__name__}.Saying"}
    made = [told("Saying", word="a"), told("Saying", word="b"), told("say", _partial_=True, word="a")]
    made += [told("say", _partial_=True), told("say", _partial_=True, key="sk-1234")]
    made += [told("Versioned"), told("Versioned", word="a"), told("Versioned", word="b")]
    assert len({str(each) for each in made}) == len(made)
    assert "sk-1234" not in str(made)
    assert {"captioner": f"{__name__}.Telling", "word": "a"}.items() < told("Telling", word="a").items()
    address = {"url": "http://localhost:1/v1", "model": "m", "question": "?"}
    endpoint = build_captioner({"_target_": "sspir.captioners.EndpointCaptioner", **address})
    assert endpoint.provenance() == EndpointCaptioner(**address).provenance()
    assert build_captioner(load_choice("captioner", "measured")).provenance() == {"captioner": "MeasuredCaptioner"}

"""Pairs that do not lie on each other: how far they are shifted, and what is done about it."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sspir.data import Crop, PairedFolder
from sspir.data.alignment import LIKENESS, align, measure_shift
from sspir.data.loading import TrainingViews
from sspir.errors import UserError
from sspir.images.io import ImageError, list_images, read_image, write_image
from sspir.images.picture import Picture, Pixels

EDGE, SCALE = 16, 4
SHARED = Path(os.environ.get("SSPIR_SHARED", Path(__file__).parents[3] / "shared"))
REALSR = SHARED / "data" / "benchmarks" / "realsr_dev"


def scene(seed: int = 0, height: int = 172, width: int = 204) -> Pixels:
    """Blobs of many sizes, (height, width, 3)."""
    generator, layers = np.random.default_rng(seed), []
    for size in (4, 8, 16, 32, 64):
        noise = generator.normal(size=(size, size, 3)).astype(np.float32)
        layers.append(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    pixels = np.sum(layers, axis=0)
    return np.clip(128 + 35 * pixels, 0, 255).astype(np.uint8)


def pair(down: float, right: float, noise: float = 0.0, seed: int = 0) -> tuple[Pixels, Pixels]:
    """A pair at scale 4 whose low-quality photo is blurred, darker and noisy; hq is moved."""
    whole = scene(seed)
    height, width = (side - 2 * EDGE for side in whole.shape[:2])
    places = np.array([[1, 0, EDGE - right], [0, 1, EDGE - down]], dtype=np.float32)
    hq = cv2.warpAffine(whole, places, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    still = cv2.GaussianBlur(whole[EDGE:-EDGE, EDGE:-EDGE], (0, 0), 2.0)
    small = cv2.resize(still, (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA)
    drawn = np.random.default_rng(seed).normal(0, noise, small.shape) if noise else 0.0
    return hq, np.clip(0.8 * small + 10 + drawn, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 8.0])
@pytest.mark.parametrize(
    ("down", "right"), [(0, 0), (1, 0), (0, -1), (0.5, 0), (-1.5, 2.5), (-5, 7), (6.5, -3), (-12, 0), (16, 15)]
)
def test_shifts_are_measured(down: float, right: float, noise: float) -> None:
    for seed in range(3):
        shift = measure_shift(*pair(down, right, noise, seed))
        assert shift.likeness > 0.9
        assert abs(shift.down - down) < 0.3
        assert abs(shift.right - right) < 0.3


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [1, 2])
def test_any_scale_and_depth_is_measured(scale: int, depth: type) -> None:
    factor = np.iinfo(depth).max // 255
    whole = scene().astype(depth) * depth(factor)
    hq, still = whole[9:-7, 5:-11], whole[6:-10, 8:-8]  # 3 up in the file: what lies at y of lq lies at y - 3 of hq
    lq = cv2.resize(still, (still.shape[1] // scale, still.shape[0] // scale), interpolation=cv2.INTER_AREA)
    shift = measure_shift(hq, lq)
    assert abs(shift.down + 3) < 0.2
    assert abs(shift.right - 3) < 0.2


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, -2), (4, -4), (-5, 7), (8, 3)])
def test_what_is_left_lies_on_each_other(down: int, right: int) -> None:
    straight, lq = pair(0, 0)
    moved, _ = pair(down, right)
    hq, low = align(moved, lq, measure_shift(moved, lq))
    assert hq.shape[:2] == (low.shape[0] * SCALE, low.shape[1] * SCALE)
    assert all(kept >= side - 8 for kept, side in zip(hq.shape, straight.shape, strict=True))
    top, left = (SCALE * -(-max(0, -shift) // SCALE) for shift in (down, right))
    assert np.array_equal(hq, straight[top : top + hq.shape[0], left : left + hq.shape[1]])
    assert np.array_equal(low, lq[top // SCALE :, left // SCALE :][: low.shape[0], : low.shape[1]])


@pytest.mark.parametrize("other", [scene(1)[:140, :172], np.full((140, 172, 3), 90, dtype=np.uint8)])
def test_unlike_and_flat_photos_have_no_clear_shift(other: Pixels) -> None:
    assert not measure_shift(other, pair(0, 0)[1]).likeness >= LIKENESS


@pytest.mark.skipif(not REALSR.is_dir(), reason="no real pairs; set SSPIR_SHARED to their folder")
def test_pairs_of_a_benchmark_lie_on_each_other() -> None:
    files = zip(*(list_images(REALSR / kind) for kind in ("HQ", "LQ")), strict=True)
    shifts = [measure_shift(*(read_image(path).pixels for path in pair)) for pair in files]
    assert min(shift.likeness for shift in shifts) > 0.95
    assert max(shift.largest for shift in shifts) < 0.5  # so that alignment leaves them as they are


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Five pairs: straight, moved a little, moved far, not of each other, and moved by less than half a pixel."""
    made = [pair(0, 0), pair(3, -2, seed=1), pair(13, 0, seed=2), (pair(0, 0, seed=3)[0], pair(0, 0, seed=4)[1])]
    for number, both in enumerate([*made, pair(0.4, 0, seed=5)]):
        for kind, pixels in zip(("hq", "lq"), both, strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            write_image(tmp_path / kind / f"{number}.png", Picture(pixels))
    return tmp_path / "lq", tmp_path / "hq"


def test_pairs_are_aligned_or_refused_with_their_shift_where_it_is_asked_for(pairs: tuple[Path, Path]) -> None:
    plain, aligned = PairedFolder(*pairs), PairedFolder(*pairs, align=8)
    for index in (0, 4):
        assert torch.equal(plain[index]["hq"], aligned[index]["hq"])
        assert torch.equal(plain[index]["lq"], aligned[index]["lq"])
    assert plain[1]["hq"].shape[1:] == (140, 172)
    assert (aligned[1]["hq"].shape[1:], aligned[1]["lq"].shape[1:]) == ((136, 168), (34, 42))
    with pytest.raises(
        ImageError, match=r"2\.png is shifted by 1[23]\.\d pixels down and -?0\.\d to the right .* more than align=8"
    ):
        aligned[2]
    with pytest.raises(ImageError, match=r"3\.png is shifted by .* at best, where they are alike by"):
        aligned[3]
    assert len(plain[2]["hq"]) == 3


def test_a_pair_is_measured_once_and_refused_pairs_are_told(
    pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(
        "sspir.data.paired_folder.measure_shift", lambda hq, lq: measured.append(1) or measure_shift(hq, lq)
    )
    views = TrainingViews(PairedFolder(*pairs, Crop(32), align=8), 0)
    for epoch in range(3):
        told = [sentence for photo in range(5) for sentence in views[(epoch, photo, 0)][2]]
        assert len({sentence.split(" is shifted")[0] for sentence in told}) == 2
    assert len(measured) == 5


def test_the_crop_must_fit_what_alignment_leaves(pairs: tuple[Path, Path]) -> None:
    PairedFolder(*pairs, Crop(140)).require_fit("crop.size")
    PairedFolder(*pairs, Crop(132), align=8).require_fit("crop.size")
    with pytest.raises(UserError, match="at most 132"):
        PairedFolder(*pairs, Crop(136), align=8).require_fit("crop.size")

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.errors import UserError
from sspir.models.tiling import _norm, tile_weights, tiled, tiles_of
from tests.reference import assert_golden, deviation, recording

CASES = ("wide", "tall_cfg", "narrow", "exact")


@pytest.mark.parametrize("height", [9, 12, 16])
def test_weights_equal_the_recorded(height: int) -> None:
    width = {9: 9, 12: 20, 16: 16}[height]
    golden = recording("tiling").outputs[f"weights.h{height}w{width}"]
    assert deviation(tile_weights(height, width, authors=True), golden) < 1e-7
    ours = tile_weights(height, width)
    assert torch.allclose(ours, ours.flip(0))
    assert torch.allclose(ours, ours.flip(1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_stitching_equals_the_recorded(case: str, batch: int) -> None:
    golden = recording("tiling")
    settings = golden.config["cases"][case]
    predictions = golden.inputs[f"{case}.tile_predictions"]  # (tiles, halves, 4, s, s)
    height, width, overlap = settings["latent_h"], settings["latent_w"], settings["overlap"]
    corners = tiles_of(height, width, settings["tile_size_used"], overlap)
    assert [list(corner) for corner in corners] == settings["tile_offsets_y_x_in_order"]
    halves = predictions.shape[1]
    left = iter(predictions)

    def stored(tiles: list[Tensor]) -> Tensor:
        return torch.cat([next(left) for _ in range(len(tiles[0]) // halves)])

    latent = torch.zeros(halves, 4, height, width)
    stitched = tiled(stored, [latent], settings["tile_size_requested"], overlap, batch, authors=True)
    if halves == 2:
        unguided, guided = stitched.chunk(2)
        stitched = unguided + settings["guidance_scale"] * (guided - unguided)
    assert_golden(stitched, golden.outputs[f"{case}.stitched"])


@pytest.mark.parametrize("size", [(37, 31), (1, 90), (90, 1), (16, 17), (33, 16)])
@pytest.mark.parametrize("batch", [1, 4])
def test_what_looks_at_single_values_is_not_changed_by_tiling(size: tuple[int, int], batch: int) -> None:
    latent, lq = torch.randn(2, 4, *size), torch.randn(2, 3, 8 * size[0], 8 * size[1])

    def function(tiles: list[Tensor]) -> Tensor:
        assert len(tiles[0]) <= 2 * batch
        assert tiles[1].shape[-1] == 8 * tiles[0].shape[-1] <= 8 * 16
        return tiles[0][:, :2] * 3 + F.avg_pool2d(tiles[1], 8)[:, :2]

    whole = latent[:, :2] * 3 + F.avg_pool2d(lq, 8)[:, :2]
    assert torch.allclose(tiled(function, [latent, lq], 16, 6, batch), whole, atol=1e-5)


def test_one_tile_is_no_tiling() -> None:
    latent = torch.randn(2, 4, 16, 9)
    assert torch.equal(tiled(lambda tiles: tiles[0].sin(), [latent], 16, 4), latent.sin())
    dtype = tiled(lambda tiles: tiles[0].bfloat16(), [latent], 8, 4).dtype
    assert dtype == torch.bfloat16


def test_blending_has_no_seam() -> None:
    """Two neighbours that disagree by 1 meet in a ramp, not a step."""
    calls = iter(range(2))
    blended = tiled(lambda tiles: torch.full_like(tiles[0], next(calls)), [torch.zeros(1, 1, 16, 24)], 16, 8)[0, 0]
    assert (blended[:, :8] == 0).all()
    assert (blended[:, 16:] == 1).all()
    assert blended.diff(dim=1).max() < 0.7
    assert torch.allclose(blended, blended[:1].expand_as(blended), atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (17, 80), (16, 16), (3, 40)])
def test_tiles_cover_and_stay_inside(size: tuple[int, int]) -> None:
    covered = torch.zeros(size)
    for y, x in tiles_of(*size, tile=16, overlap=5):
        assert 0 <= y <= max(size[0] - 16, 0)
        assert 0 <= x <= max(size[1] - 16, 0)
        covered[y : y + 16, x : x + 16] += 1
    assert (covered > 0).all()


@pytest.mark.parametrize("overlap", [-1, 16])
def test_impossible_overlap_is_refused(overlap: int) -> None:
    with pytest.raises(UserError, match="0 to 15"):
        tiles_of(40, 40, 16, overlap)


def test_few_sizes_of_pictures_are_kept_in_memory() -> None:
    for side in range(20, 30):
        latent = torch.ones(1, 1, side, side)
        assert torch.allclose(tiled(lambda tiles: tiles[0], [latent], 16, 4), latent)
    assert _norm.cache_info().currsize <= 4

"""Large images: regions and tiles leave no trace in the picture."""

import pytest
import torch

from sspir.errors import UserError
from sspir.models.latent import upscale
from sspir.sampling.regions import Span, Upscaler, noise_at, spans_of
from tests.pipelines import photo, tiny_pipeline


@pytest.mark.parametrize("length", [65, 100, 128, 129, 300, 1000])
@pytest.mark.parametrize("multiple", [4, 8])
def test_spans_cover_an_image_with_weights_that_add_up_to_one(length: int, multiple: int) -> None:
    spans = spans_of(length, 64, 8, multiple)
    total = torch.zeros(length)
    for span in spans:
        total[span.start : span.stop] += span.weights()
    assert torch.allclose(total, torch.ones(length))
    assert len(spans) > 1
    assert all(span.start % multiple == 0 and span.stop - span.start <= 64 + multiple for span in spans)


@pytest.mark.parametrize("size", [(96, 80), (37, 61), (20, 90), (10, 9)])
def test_a_part_upscaled_is_part_of_the_whole_upscaled(size: tuple[int, int]) -> None:
    lq = photo(24, 20)[None]
    whole = upscale(lq, size)
    rows, columns = Span(size[0] // 3, size[0] - 1, 0, 0), Span(2, size[1] // 2, 0, 0)
    part = Upscaler(lq, size)(rows, columns)
    assert (part - whole[..., rows.start : rows.stop, columns.start : columns.stop]).abs().max() < 1e-5


def test_a_part_of_a_long_image_takes_no_matrix_of_the_whole() -> None:
    lq = torch.rand(1, 3, 8, 40_000)
    part = Upscaler(lq, (32, 160_000))(Span(0, 32, 0, 0), Span(80_000, 80_064, 0, 0))
    near = upscale(lq[..., 19_900:20_100], (32, 800))
    assert (part - near[..., 400:464]).abs().max() < 1e-5


def test_noise_is_the_same_at_the_same_place() -> None:
    whole = noise_at(3, 2, 0, 0, 150, 140)
    assert torch.equal(noise_at(3, 2, 50, 60, 90, 70), whole[..., 50:140, 60:130])
    assert abs(float(whole.mean())) < 0.02
    assert abs(float(whole.std()) - 1) < 0.02
    assert not torch.equal(noise_at(4, 2, 0, 0, 150, 140), whole)


@torch.no_grad()
def test_one_region_and_one_tile_change_no_bit() -> None:
    pipeline, lq = tiny_pipeline(), photo(24, 20)
    wanted = pipeline(lq, output_type="pt", tile=None, region=None).images[0]
    assert torch.equal(pipeline(lq, output_type="pt", tile=24, region=96).images[0], wanted)


def seam(image: torch.Tensor, borders: list[int]) -> float:
    """Mean difference of columns across borders over that beside them, at the same place of a block of latents."""
    steps = image.diff(dim=2).abs().mean(dim=(0, 1))
    across = torch.stack([steps[border - 1] for border in borders]).mean()
    beside = torch.stack([steps[border - 1 + k] for border in borders for k in (-12, -8, 8, 12)]).mean()
    return float(across / beside)


@pytest.mark.parametrize("colour", ["none", "adain", "wavelet"])
def test_regions_show_no_seams(colour: str) -> None:
    pipeline, lq = tiny_pipeline(), photo(20, 100)
    settings = {"region": 128, "colour": colour, "tile": None}
    image = pipeline(lq, output_type="pt", **settings).images[0]
    assert image.shape == (3, 80, 400)
    spans = spans_of(400, 80, 10, 4)
    assert seam(image, [span.start for span in spans[1:]] + [span.stop for span in spans[:-1]]) < 1.1


def test_tiles_with_tokens_of_their_own_differ_from_shared_ones() -> None:
    pipeline, lq = tiny_pipeline(), photo(20, 40)
    shared, own = (
        pipeline(lq, output_type="pt", tile=16, overlap=4, tile_tokens=tokens).images[0] for tokens in ("image", "tile")
    )
    assert (shared - own).abs().max() > 1e-4
    fits = pipeline(lq, output_type="pt", tile=64, overlap=4, tile_tokens="tile").images[0]
    assert torch.equal(fits, pipeline(lq, output_type="pt", tile=64, overlap=4).images[0])


def test_a_regions_side_must_leave_room() -> None:
    with pytest.raises(UserError, match="region=32 is too small"):
        tiny_pipeline()(photo(), region=32)


def test_progress_goes_on_from_region_to_region() -> None:
    seen: list[tuple[int, int]] = []
    tiny_pipeline()(photo(10, 60), region=128, steps=2, on_step=lambda step: seen.append(step[:2]))
    count = len(spans_of(240, 80, 10, 4))
    assert seen == [(number, 2 * count) for number in range(1, 2 * count + 1)]

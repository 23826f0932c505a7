"""The metrics for patterns find one that is put on a picture, at its strength, and none where there is none."""

import pytest
import torch
import torch.nn.functional as F
from skimage import data

from sspir.errors import UserError
from sspir.metrics import Grid, Seams


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.from_numpy(data.astronaut()[:256, :256].copy()).permute(2, 0, 1)[None] / 255


def woven(pattern: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """A grey picture (1, 3, 96, 240), flat but for a square pattern of grey levels in two fifths, noise elsewhere."""
    grey = (100 + pattern.repeat(96 // len(pattern), 240 // len(pattern))).roll((shift, shift), (0, 1))
    grey[:, :140] += (40 * torch.randn(96, 140, generator=torch.Generator().manual_seed(1))).round()
    return grey.clamp(0, 255).expand(1, 3, -1, -1) / 255


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_pattern_has_its_own_deviation(shift: int) -> None:
    pattern = torch.randint(0, 9, (4, 4), generator=torch.Generator().manual_seed(0)).float()
    for period in (4, 8):
        found = Grid(period).score(woven(pattern, shift)).item()
        assert found == pytest.approx(pattern.std(correction=0).item(), rel=0.05)


def test_a_period_of_eight_is_not_one_of_four() -> None:
    pattern = torch.zeros(8, 8)
    pattern[:4] = 1
    pattern[:, :4] += 1
    assert Grid(8).score(woven(4 * pattern)).item() > 3 * Grid(4).score(woven(4 * pattern)).item()


def test_a_photo_has_none_and_a_weave_of_one_level_is_seen(photo: torch.Tensor) -> None:
    weave = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(128, 128) / 255
    clean, spoilt = (Grid(8).score(picture).item() for picture in (photo, (photo + weave).clamp(0, 1)))
    assert clean < 0.15
    assert spoilt > 0.8


def test_images_do_not_see_their_batch_and_other_periods_are_refused(photo: torch.Tensor) -> None:
    flipped = photo.flip(3)
    together = Grid(8).score(torch.cat([photo, flipped]))
    assert together.tolist() == pytest.approx([Grid(8).score(each).item() for each in (photo, flipped)])
    with pytest.raises(UserError, match="multiple of 4"):
        Grid(6)
    with pytest.raises(UserError, match="grid: a picture of 4 x 9 is too small; 5 x 5 is the least"):
        Grid(4)(photo[..., :9, :4], None)


def test_an_enlarged_photo_has_seams_and_a_turned_or_moved_one_the_same(photo: torch.Tensor) -> None:
    small = F.interpolate(photo, scale_factor=0.25, mode="area")
    enlarged = F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)
    clean, seen, turned, moved = (
        Seams().score(each).item() for each in (photo, enlarged, enlarged.mT, enlarged[..., 1:, 3:])
    )
    assert clean < 0.02
    assert seen > 0.05
    assert turned == pytest.approx(seen, rel=1e-4)
    assert moved == pytest.approx(seen, rel=0.05)


def test_lines_of_any_sign_amid_texture_are_seams_and_no_weave() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = 128 + 12 * torch.randn(1, 1, 128, 128, generator=generator)
    lines = 12 * torch.randn(1, 1, 128, 32, 1, generator=generator) * torch.tensor([1.0, 0, 0, 0])
    plain, lined = (each.expand(-1, 3, -1, -1) / 255 for each in (texture, texture + lines.flatten(3)))
    assert Seams().score(lined).item() > 5 * Seams().score(plain).item()
    assert Grid(4).score(lined).item() < 2 * Grid(4).score(plain).item()


def test_seams_of_a_batch_and_of_flat_and_small_pictures(photo: torch.Tensor) -> None:
    both = torch.cat([photo, photo.flip(3)])
    assert Seams(8).score(both).tolist() == pytest.approx([Seams(8).score(each[None]).item() for each in both])
    assert Seams().score(torch.full((1, 3, 32, 32), 0.5)).item() == 0
    assert Seams().score(photo[..., :9, :8]).isfinite().all()
    with pytest.raises(UserError, match="a picture of 7 x 9 is too small"):
        Seams().score(photo[..., :9, :7])
    with pytest.raises(UserError, match="4, 8 or 16"):
        Seams(6)


@pytest.mark.parametrize("side", [32, 128])
def test_noise_has_no_seams_at_any_size(side: int) -> None:
    noise = torch.rand(8, 3, side, side + 5, generator=torch.Generator().manual_seed(0))
    assert Seams().score(noise).mean() < 0.05

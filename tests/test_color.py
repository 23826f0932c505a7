import pytest
import torch
from skimage import color as skimage_color
from skimage import data as photos

from sspir.color import adain, blur, fix_colour, low_frequencies, wavelet, ycbcr
from sspir.errors import UserError
from tests.reference import assert_golden, images, recording

PHOTO = torch.from_numpy(photos.astronaut()[:96, 100:220]).permute(2, 0, 1)[None] / 255
TINTED = (PHOTO * torch.tensor([0.8, 1.0, 0.6]).view(1, 3, 1, 1) + 0.1).clamp(0, 1)


def test_equal_to_the_recorded_fixes() -> None:
    golden = recording("colour_fix")
    target, source = images(golden.inputs["target_u8"]), images(golden.inputs["source_u8"])
    assert_golden(adain(target, source), golden.outputs["adain.float_unclamped"])
    assert_golden(wavelet(target, source), golden.outputs["wavelet.float_unclamped"])
    assert_golden(low_frequencies(target), golden.outputs["wavelet.target_low"])
    assert_golden(target - low_frequencies(target), golden.outputs["wavelet.target_high"])
    assert_golden(blur(target, radius=1), golden.outputs["wavelet.blur_radius_1"])


def test_recorded_bytes_are_the_truncated_fixes() -> None:
    golden = recording("colour_fix")
    target, source = images(golden.inputs["target_u8"]), images(golden.inputs["source_u8"])
    for mode in ("adain", "wavelet"):
        fixed = (fix_colour(target, source, mode)[0] * 255).to(torch.uint8)
        off_by_one = (fixed.int() - golden.outputs[f"{mode}.u8"].int()).abs()
        assert off_by_one.max() <= 1  # a value next to a whole number may fall on either side
        assert off_by_one.float().mean() < 1e-3


@pytest.mark.parametrize("mode", ["adain", "wavelet", "ycbcr"])
def test_a_tint_goes_away(mode: str) -> None:
    def shift(image: torch.Tensor) -> float:
        return float((image.mean(dim=(2, 3)) - PHOTO.mean(dim=(2, 3))).abs().mean())

    half, whole = (fix_colour(TINTED, PHOTO, mode, strength) for strength in (0.5, 1.0))
    assert shift(whole) < 0.45 * shift(TINTED)  # ycbcr leaves the tint's change of luma
    assert shift(whole) < shift(half) < shift(TINTED)


@pytest.mark.parametrize("mode", ["adain", "wavelet", "ycbcr"])
def test_its_own_colours_change_nothing(mode: str) -> None:
    assert torch.allclose(fix_colour(PHOTO, PHOTO, mode), PHOTO, atol=1e-6)


def test_ycbcr_takes_exactly_the_chroma() -> None:
    fixed = ycbcr(TINTED, PHOTO)
    ours, theirs, luma_of = (
        torch.from_numpy(skimage_color.rgb2ycbcr(image[0].permute(1, 2, 0).double().numpy()))
        for image in (fixed, PHOTO, TINTED)
    )
    assert torch.allclose(ours[..., 1:], theirs[..., 1:], atol=0.05)  # of 255
    assert torch.allclose(ours[..., 0], luma_of[..., 0], atol=0.05)


def test_results_are_in_range_for_images_of_another_size() -> None:
    for mode in ("none", "adain", "wavelet", "ycbcr"):
        fixed = fix_colour(torch.rand(2, 3, 37, 31) * 1.5 - 0.2, torch.rand(2, 3, 9, 13), mode)
        assert fixed.shape == (2, 3, 37, 31)
        assert 0 <= fixed.min() <= fixed.max() <= 1
    flat = fix_colour(torch.full((1, 3, 1, 1), 0.3), torch.full((1, 3, 5, 7), 0.6), "wavelet")
    assert torch.allclose(flat, torch.full_like(flat, 0.6))
    pixel = fix_colour(torch.full((1, 3, 1, 1), 0.3), torch.full((1, 3, 1, 1), 0.6), "adain")
    assert torch.allclose(pixel, torch.full_like(pixel, 0.6))


def test_wrong_arguments_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="choose one of none, adain"):
        fix_colour(PHOTO, PHOTO, "adian")
    with pytest.raises(UserError, match="from 0"):
        fix_colour(PHOTO, PHOTO, "adain", strength=2)

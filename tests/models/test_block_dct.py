"""The latent space without training: orthonormal, with blocks apart or overlapping."""

import pytest
import torch

from sspir.models.block_dct import BlockDCT, across_seams, cosine_rows, seam_rotation

both = pytest.mark.parametrize("overlap", [False, True])


def whole(overlap: bool) -> BlockDCT:
    """All coefficients, none scaled."""
    return BlockDCT(kept=(16, 16, 16), std=[1.0] * 48, overlap=overlap)


@both
@pytest.mark.parametrize("size", [(32, 48), (4, 12), (8, 4)])
def test_images_come_back_and_keep_their_energy(overlap: bool, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = whole(overlap)
    latents = vae.encode(images).latents
    assert (vae.decode(latents).sample - images).abs().max() < 1e-5
    assert latents.square().sum() == pytest.approx(images.square().sum().item(), rel=1e-5)


@both
def test_latents_have_full_precision_within_a_training_in_half(overlap: bool) -> None:
    vae, images = whole(overlap), torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(images).latents
    assert torch.equal(latents, vae.encode(images).latents)


@both
def test_a_flat_image_is_its_mean(overlap: bool) -> None:
    latents = whole(overlap).encode(torch.full((1, 3, 16, 24), 0.5)).latents
    assert torch.allclose(latents[:, 0], torch.tensor(0.5 * 4 * 3**0.5))
    assert latents[:, 1:].abs().max() < 1e-5


@pytest.mark.parametrize(("overlap", "gain"), [(False, 7.57), (True, 7.93)])
def test_overlap_describes_a_smooth_signal_in_fewer_numbers(overlap: bool, gain: float) -> None:
    """Coding gain, dB: arithmetic over geometric mean of the variances, for neighbours that correlate by .95."""
    place = torch.arange(36.0)
    covariance = 0.95 ** (place[:, None] - place).abs()
    rows = torch.block_diag(*[cosine_rows(4)] * 9)
    if overlap:
        seams = torch.block_diag(torch.eye(2), *[seam_rotation(4)] * 8, torch.eye(2))
        rows = rows @ seams
    variances = (rows @ covariance @ rows.T).diagonal()[16:20]
    assert 10 * (variances.mean() / variances.log().mean().exp()).log10() == pytest.approx(gain, abs=0.005)


def test_an_error_of_one_block_has_no_edge() -> None:
    latents = torch.zeros(1, 48, 5, 5)
    latents[:, 0, 2, 2] = 1.0
    steps = [whole(overlap).decode(latents).sample[0, 0, 10].diff().abs().max() for overlap in (False, True)]
    assert steps[1] < 0.75 * steps[0]


def test_edges_of_the_image_are_left_alone() -> None:
    images = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = across_seams(images, seam_rotation(4))
    corners = [index % 16 for index in (0, 1, -2, -1)]
    assert torch.equal(moved[..., corners, :][..., corners], images[..., corners, :][..., corners])
    assert not torch.equal(moved[..., 2:-2, 2:-2], images[..., 2:-2, 2:-2])

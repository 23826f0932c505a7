"""Encoding and decoding in tiles: bounded, in place, without seams."""

from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKL

from sspir.models.block_dct import BlockDCT
from sspir.models.latent import decode_latents, encode_latents
from tests.pipelines import photo


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    levels = 3
    return AutoencoderKL(
        block_out_channels=(8,) * levels, layers_per_block=1, norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    ).eval()  # fmt: skip


def texture(height: int, width: int) -> torch.Tensor:
    """The same statistics everywhere, as a tile's group norms know no others."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 40), (64, 64)])
def test_one_tile_changes_no_bit(vae: AutoencoderKL, size: tuple[int, int]) -> None:
    image = texture(*size)
    latents = encode_latents(vae, image, generator())
    assert torch.equal(encode_latents(vae, image, generator(), tile=16), latents)
    assert torch.equal(decode_latents(vae, latents, tile=16), decode_latents(vae, latents))
    plain = vae.encode(2 * image - 1).latent_dist.sample(generator()) * vae.config.scaling_factor
    assert torch.equal(latents, plain)


@torch.no_grad()
@pytest.mark.parametrize("size", [(37, 31), (16, 50), (17, 3)])
def test_tiles_lie_where_they_belong(size: tuple[int, int]) -> None:
    vae, image = BlockDCT(), photo(4 * size[0], 4 * size[1])[None]  # looks at single blocks: tiling must not matter
    latents = encode_latents(vae, image)
    assert (encode_latents(vae, image, tile=8) - latents).abs().max() < 1e-5
    assert (decode_latents(vae, latents, tile=8) - decode_latents(vae, latents)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encodes_in_its_own_precision_whatever_a_trainings_is(vae: AutoencoderKL, dtype: torch.dtype) -> None:
    for each in (deepcopy(vae).to(dtype), BlockDCT().to(dtype), BlockDCT(overlap=True).to(dtype)):
        with torch.autocast("cpu", torch.bfloat16):
            latents = encode_latents(each, texture(16, 16), generator())
        assert latents.dtype == torch.float32
        assert torch.equal(latents, encode_latents(each, texture(16, 16), generator()))


def seam(image: torch.Tensor, borders: list[int]) -> float:
    """Mean difference of columns across borders over that beside them, at the same place of a latent."""
    steps = image.diff(dim=3).abs().mean(dim=(0, 1, 2))
    across = torch.stack([steps[border - 1] for border in borders]).mean()
    beside = torch.stack([steps[border - 1 + k] for border in borders for k in (-12, -8, 8, 12)]).mean()
    return float(across / beside)


@torch.no_grad()
def test_many_tiles_are_close_to_the_whole_without_seams_and_no_larger_than_told(vae: AutoencoderKL) -> None:
    image = texture(176, 240)
    latents = encode_latents(vae, image, generator())
    whole = decode_latents(vae, latents)
    sizes: list[int] = []
    watched = [vae.encoder, vae.decoder]
    hooks = [each.register_forward_pre_hook(lambda _, args: sizes.append(max(args[0].shape[-2:]))) for each in watched]
    cut = encode_latents(vae, image, generator(), tile=24)
    blended = decode_latents(vae, latents, tile=24)
    for hook in hooks:
        hook.remove()
    assert max(sizes) == 24 * 4
    assert min(sizes) == 24
    assert (cut - latents).norm() < 0.05 * latents.norm()  # measured: 0.02
    assert (blended - whole).norm() < 0.25 * (whole - whole.mean()).norm()  # 0.14: random weights exaggerate
    borders = [72, 96, 144, 168]
    assert seam(blended, borders) < 1.1 * seam(whole, borders)

"""Attention in bfloat16 on a CPU against the softmax itself."""

import pytest
import torch
import torch.nn.functional as F

from sspir.models.cpu_attention import bf16_attention


def tensors(rows: int, tokens: int, scale: float, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 40, generator=generator) for n in (rows, tokens, tokens))
    return [(scale * query).to(dtype), (key + 5).to(dtype), value.to(dtype)]


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    scores = query.double() @ key.double().transpose(2, 3) / query.shape[3] ** 0.5
    return scores.softmax(dim=3) @ value.double()


@pytest.mark.parametrize(("rows", "tokens"), [(1024, 1024), (2000, 1100)])
@torch.no_grad()
def test_small_scores_are_as_good_by_products_as_by_the_kernel(rows: int, tokens: int) -> None:
    given = tensors(rows, tokens, 0.5)
    found = bf16_attention(*given)
    kernel = F.scaled_dot_product_attention(*given)
    assert not found.equal(kernel)  # it went the other way
    errors = [(x.double() - exact(*given)).norm() / exact(*given).norm() for x in (found, kernel)]
    assert errors[0] < 0.01
    assert errors[0] < 3 * errors[1]


@torch.no_grad()
def test_large_scores_short_sequences_and_other_types_take_the_kernel() -> None:
    for given in (tensors(1024, 1024, 50), tensors(64, 64, 0.5), tensors(1024, 1024, 0.5, torch.float32)):
        assert bf16_attention(*given).equal(F.scaled_dot_product_attention(*given))


@torch.no_grad()
def test_one_head_of_large_scores_changes_no_other() -> None:
    given = tensors(1024, 1024, 0.5)
    alone = bf16_attention(*given)
    given[0][0, 1] *= 100
    beside = bf16_attention(*given)
    changed = (alone != beside).flatten(2).any(2)
    assert changed.tolist() == [[False, True, False], [False, False, False]]
    torch.testing.assert_close(beside.double(), exact(*given), atol=0.05, rtol=0.05)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch() -> None:
    given = tensors(1024, 1024, 0.5)
    assert bf16_attention(*given)[:1].equal(bf16_attention(*(tensor[:1] for tensor in given)))


@pytest.mark.parametrize(("rows", "tokens", "enlarged"), [(20, 30, 1), (200, 300, 10), (2000, 1100, 1)])
def test_training_has_the_gradients_of_the_softmax(rows: int, tokens: int, enlarged: float) -> None:
    given = tensors(rows, tokens, 0.5)
    given[0][0, 1] *= enlarged
    doubles = [tensor.double().requires_grad_() for tensor in given]
    given = [tensor.requires_grad_() for tensor in given]
    found, truth = bf16_attention(*given), exact(*doubles)
    assert not found.equal(F.scaled_dot_product_attention(*given))  # it went the other way
    wanted = torch.autograd.grad(truth.square().sum(), doubles)
    for ours, theirs in zip(torch.autograd.grad(found.float().square().sum(), given), wanted, strict=True):
        assert (ours.double() - theirs).norm() / theirs.norm() < 0.03

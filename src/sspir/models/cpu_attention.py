"""Attention in bfloat16 on a CPU, where torch's kernel is no faster than in float32."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SMALL = 16.0  # scores, as powers of two: rounded to bfloat16, they change no weight by more than 2 %
_WORTH = 1 << 18  # scores in all below which torch's kernel is as fast, but for its backward pass
_AT_ONCE = 1 << 21  # scores computed at a time: 4 MiB, which stay in the cache


def bf16_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key' / sqrt(d)) value.

    torch's kernel computes scores in float32, whatever type it gets. For heads whose scores are small, which a bound by
    the lengths of queries and keys shows, products of bfloat16 matrices without a softmax's maximum take less time. All
    other heads, devices and types, and inputs that are too small to gain, take torch's kernel.

    Args:
        query: (B, H, N, d).
        key: (B, H, L, d).
        value: (B, H, L, d).

    Returns:
        (B, H, N, d).
    """
    half = query.device.type == "cpu" and query.dtype == torch.bfloat16
    worth = torch.is_grad_enabled() or query.shape[:3].numel() * key.shape[2] >= _WORTH
    if not half or not worth or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value)
    heads = [tensor.flatten(0, 1).contiguous() for tensor in (query, key, value)]
    with torch.autocast("cpu", enabled=False):
        # What all keys share moves all scores of a query alike, and changes no weight
        centred = heads[0], heads[1] - heads[1].mean(dim=1, keepdim=True), heads[2]
        small = _largest(*centred[:2]) <= _SMALL
        if small.all():
            attended = _Products.apply(*centred)
        else:
            attended = torch.empty_like(heads[0])
            attended[small] = _Products.apply(*(tensor[small] for tensor in centred))
            queries, keys, values = (tensor[~small] for tensor in heads)
            attended[~small] = F.scaled_dot_product_attention(queries, keys, values)
    return attended.view(*query.shape)


def _base_two(width: int) -> float:
    """The factor that turns products of queries and keys (..., width) into exponents of two."""
    return math.log2(math.e) / math.sqrt(width)


@torch.no_grad()
def _largest(query: Tensor, key: Tensor) -> Tensor:
    """A bound (n) of the exponents of queries (n, N, d) and keys (n, L, d): the longest query times the longest key."""
    longest = [torch.linalg.vector_norm(x, dim=2, dtype=torch.float32).amax(dim=1) for x in (query, key)]
    return longest[0] * longest[1] * _base_two(query.shape[2])


class _Products(torch.autograd.Function):
    """Attention by products, (n, N, d), (n, L, d), (n, L, d) -> (n, N, d); no score is kept for the backward pass.

    Narrow matrices are turned on their side: their product with scores or weights takes half the time from the left.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = query * _base_two(query.shape[2])
        ones = value.new_ones(len(value), 1, value.shape[1])  # their row sums the weights
        value = torch.cat([value.transpose(1, 2), ones], dim=1)
        summed = value.new_empty(*value.shape[:2], query.shape[1])
        for heads, rows, weights in _weights(query, key):
            summed[heads, :, rows] = torch.bmm(value[heads], weights.transpose(1, 2))
        ctx.save_for_backward(query, key, value, summed)
        return (summed[:, :-1] / summed[:, -1:]).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, summed = ctx.saved_tensors
        gradient = gradient.transpose(1, 2) / summed[:, -1:]
        shared = (gradient * summed[:, :-1]).sum(dim=1, keepdim=True) / summed[:, -1:]
        gradient = torch.cat([gradient, -shared], dim=1)
        turned_query, turned_key = (tensor.transpose(1, 2).contiguous() for tensor in (query, key))
        of_query = torch.empty_like(turned_query)
        of_key, of_value = (torch.zeros_like(turned_key, dtype=torch.float32) for _ in range(2))
        for heads, rows, weights in _weights(query, key):
            given = gradient[heads, :, rows]
            of_scores = torch.bmm(given.transpose(1, 2), value[heads]).mul_(weights)
            of_query[heads, :, rows] = torch.bmm(turned_key[heads], of_scores.transpose(1, 2))
            of_key[heads] += torch.bmm(turned_query[heads, :, rows], of_scores)
            of_value[heads] += torch.bmm(given[:, :-1], weights)
        of_query /= math.sqrt(query.shape[2])
        of_key *= math.log(2)
        found = [tensor.to(query.dtype).transpose(1, 2) for tensor in (of_query, of_key, of_value)]
        return found[0], found[1], found[2]


def _weights(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield slices of heads and of query rows, with the unscaled weights (heads, rows, L) of the keys."""
    (count, length, _), tokens = query.shape, key.shape[1]
    together, rows = (max(1, _AT_ONCE // scores) for scores in (length * tokens, tokens))
    room = query.new_empty(min(together, count) * min(rows, length) * tokens)
    for first in range(0, count, together):
        heads = slice(first, first + together)
        for start in range(0, length, rows):
            some = slice(start, start + rows)
            part = query[heads, some]
            weights = room[: part.shape[:2].numel() * tokens].view(*part.shape[:2], tokens)
            yield heads, some, torch.bmm(part, key[heads].transpose(1, 2), out=weights).exp2_()

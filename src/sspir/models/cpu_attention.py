"""Attention in bfloat16 on a CPU, where torch's kernel is no faster than in float32."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALL = 16.0  # scores, as powers of two: rounded to bfloat16, they change no weight by more than 2 %
_WORTH = 1 << 20  # scores in all below which torch's kernel is as fast
_AT_ONCE = 1 << 20  # scores computed at a time, so that they stay near the core
_MOST_KEPT = 1 << 24  # scores in all that training keeps for the backward pass; 32 MiB


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key' / sqrt(d)) value.

    torch's kernel computes scores in float32 whatever it is given, and its backward pass is slow. Two matrix products
    in bfloat16 take 0.6 to 0.8 of its time. Sampling leaves out the maximum where the lengths of a head's queries and
    keys show that its scores are small. Other heads, devices and types, and what would not pay, take torch's kernel.

    Args:
        query: (B, H, N, d).
        key: (B, H, L, d).
        value: (B, H, L, d).

    Returns:
        (B, H, N, d).
    """
    half = query.device.type == "cpu" and query.dtype == torch.bfloat16
    scores = query.shape[:3].numel() * key.shape[2]
    if half and torch.is_grad_enabled() and scores <= _MOST_KEPT and (query.shape[3] >= 16 or key.shape[2] <= 512):
        with torch.autocast("cpu", enabled=False):
            return _by_softmax(query, key, value)
    if not half or torch.is_grad_enabled() or scores < _WORTH or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value)
    scaled = query * (math.log2(math.e) / math.sqrt(query.shape[3]))
    centred = key - key.mean(dim=2, keepdim=True)  # takes the same from all scores of a query: the softmax is as it was
    longest = [torch.linalg.vector_norm(x, dim=3, dtype=torch.float32).amax(dim=2) for x in (scaled, centred)]
    small = longest[0] * longest[1] <= _SMALL
    attended = torch.empty_like(query)
    if small.any():
        attended[small] = _by_products(scaled[small], centred[small].transpose(1, 2), value[small])
    if not small.all():
        attended[~small] = F.scaled_dot_product_attention(query[~small], key[~small], value[~small])
    return attended


def _by_softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by the plain formula, (B, H, N, d), whose weights are kept for the backward pass."""
    scaled = query.flatten(0, 1) / math.sqrt(query.shape[3])
    weights = torch.bmm(scaled, key.flatten(0, 1).transpose(1, 2)).softmax(dim=2)
    return torch.bmm(weights, value.flatten(0, 1)).view(*query.shape)


def _by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of n heads whose softmax is to the base of two: (n, N, d), (n, d, L), (n, L, d) -> (n, N, d)."""
    width, tokens = value.shape[2], value.shape[1]
    # A column of ones sums the weights; up to a multiple of 16 columns the product takes half the time
    value = torch.cat([value, value.new_ones(*value.shape[:2], 16 - width % 16)], dim=2)
    attended = torch.empty_like(query)
    heads, rows = (max(1, _AT_ONCE // scores) for scores in (query.shape[1] * tokens, tokens))
    for some in zip(*(torch.split(x, heads) for x in (query, key, value, attended)), strict=True):
        for part, target in zip(*(torch.split(x, rows, dim=1) for x in (some[0], some[3])), strict=True):
            summed = torch.bmm(torch.bmm(part, some[1]).exp2_(), some[2])
            torch.div(summed[..., :width], summed[..., -1:], out=target)
    return attended

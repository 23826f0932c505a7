"""Where a test runs: on the CPU, and on a GPU where there is one (`make test-gpu`)."""

import pytest
import torch

GPU = pytest.param("cuda", marks=pytest.mark.gpu(1))
DEVICES = ["cpu", GPU]
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}  # Lightning's words

TOLERANCE = 1e-4
"""What may lie between two computations of one thing on a GPU: its kernels are chosen by sizes and addresses."""


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors are equal: on a CPU to the last bit."""
    ours, theirs = ours.detach(), theirs.detach()
    if "cuda" not in (ours.device.type, theirs.device.type):
        return torch.equal(ours, theirs)
    return torch.allclose(ours.cpu().float(), theirs.cpu().float(), rtol=TOLERANCE, atol=TOLERANCE)

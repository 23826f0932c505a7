"""What a restoration costs: CPU seconds, parameters, multiplications."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sspir.peers.base import Peer, restored

SIDE = 128
"""Height and width of the picture that is restored to measure the cost."""
RUNS = 3  # after a first one that is not counted


@dataclass(frozen=True)
class Cost:
    """What a method costs; None where that is not known.

    Attributes:
        cpu_seconds: of the process on one thread, the median of several restorations of one picture.
        parameters: how many numbers were learned.
        macs: multiplications with additions in convolutions and matrix products, of one picture.
    """

    cpu_seconds: float | None = None
    parameters: int | None = None
    macs: float | None = None


def picture() -> Tensor:
    """What is restored: (1, 3, SIDE, SIDE), random, as networks take the same time for all pictures of a size."""
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def cpu_seconds(run: Callable[[], Any]) -> float:
    """The process's CPU seconds that a function takes on one thread: the median of three runs after a warm-up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = []
        for _ in range(1 + RUNS):
            started = time.process_time()
            run()
            taken.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(taken[1:])


def macs_of(run: Callable[[], Any]) -> float:
    """Multiplications with additions in the convolutions and matrix products of torch that a function runs."""
    # The kernel of attention is not counted on a CPU; the matrix products that it stands for are
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops() / 2


def cost_of(peer: Peer, size: tuple[int, int]) -> Cost:
    """What a peer costs, with resizing to `size` (H, W)."""
    lq = picture()
    return Cost(cpu_seconds(lambda: restored(peer, lq, size)), peer.parameters(), peer.macs(SIDE, SIDE))

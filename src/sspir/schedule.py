"""How the learning rate goes over a training."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, structure_steps: int = 0, second: float = 1.0
) -> LambdaLR:
    """Linear warm-up and a cosine to zero: for the Processor's image first, where it is trained alone, then for all.

    Args:
        optimizer: whose rate is the height of the first peak.
        num_warmup_steps: of each rise.
        num_training_steps: of all.
        structure_steps: where the rate has come to zero and rises again; 0 for a single cosine.
        second: height of the second peak over the first.
    """
    return LambdaLR(
        optimizer,
        partial(_factor, warmup=num_warmup_steps, steps=num_training_steps, border=structure_steps, second=second),
    )


def _factor(step: int, warmup: int, steps: int, border: int, second: float) -> float:
    height, start, end = (1.0, 0, border) if step < border else (second if border else 1.0, border, steps)
    done = step - start
    if done < warmup:
        return height * done / warmup
    return height * (0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - warmup) / max(1, end - start - warmup))))

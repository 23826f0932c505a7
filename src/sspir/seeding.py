"""Seeds of random draws: a seed depends only on the purpose of the draw."""

import hashlib


def sample_seed(seed: int, epoch: int, sample_id: str) -> int:
    """The seed of one sample in one epoch of one run, below 2**63: the same on every machine and Python."""
    text = f"{seed}\n{epoch}\n{sample_id}".encode(errors="surrogateescape")  # a file's name may be no UTF-8
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def torch_seed(seed: int) -> int:
    """A seed as torch's generators of the CPU take it, whose lowest 32 bits count; one that has more is hashed."""
    return seed if seed < 2**32 else sample_seed(seed, 0, "torch")

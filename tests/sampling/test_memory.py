"""Peak memory: measured, and bounded for large images."""

import subprocess
import sys

import pytest
import torch

from sspir.sampling.memory import free_bytes, peak_bytes, reset_peak

CPU = torch.device("cpu")


def test_a_peak_is_seen_and_forgotten() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(400 * 2**20 // 4)  # more than the process may have kept of what it freed
    assert peak_bytes(CPU) - before > 200 * 2**20
    del block
    assert free_bytes(CPU) > 2**20


CODE = """
import sys, torch
torch.set_num_threads(1)
from sspir.sampling.memory import peak_bytes, reset_peak
from tests.pipelines import photo, tiny_pipeline
pipeline, cpu, side = tiny_pipeline(), torch.device("cpu"), int(sys.argv[1])
reset_peak(cpu)
pipeline(photo(side // 4, side // 4), "a", output_type="pt", steps=1)
print(peak_bytes(cpu))
"""


@pytest.mark.slow
def test_four_times_the_side_needs_at_most_a_quarter_more_memory() -> None:
    peaks = [
        int(subprocess.run([sys.executable, "-c", CODE, side], capture_output=True, text=True, check=True).stdout)
        for side in ("1024", "4096")
    ]
    assert peaks[1] <= 1.25 * peaks[0]

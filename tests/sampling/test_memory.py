"""Peak memory: measured, and bounded for large images."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sspir import memory
from sspir.memory import capacity_bytes, free_bytes, peak_bytes, reset_peak
from sspir.sampling.precision import plain
from sspir.sampling.restoration import Restoration
from sspir.sampling.sampler import Sampler
from tests.pipelines import photo, tiny_pipeline

CPU = torch.device("cpu")


def test_a_peak_is_seen_and_forgotten() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(400 * 2**20 // 4)  # more than the process may have kept of what it freed
    assert peak_bytes(CPU) - before > 200 * 2**20
    del block
    assert free_bytes(CPU) > 2**20


def test_files_that_were_read_leave_a_container_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = {"memory.max": 2**20, "memory.current": 2**19, "memory.stat": f"anon {2**17}\ninactive_file {2**18}\n"}
    for name, told in held.items():
        (tmp_path / name).write_text(f"{told}")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(CPU) == 2**19 + 2**18


def on_a_card(monkeypatch: pytest.MonkeyPatch, free: float, total: float, cached: float) -> None:
    """What torch tells of a card, GiB: free for others, in all, and held by torch without being used."""
    told = {"mem_get_info": (free, total), "memory_reserved": 1 + cached, "memory_allocated": 1}
    for name, number in told.items():
        answer = tuple(int(each * 2**30) for each in number) if isinstance(number, tuple) else int(number * 2**30)
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)


def test_what_torch_holds_and_does_not_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch, free=0.5, total=24, cached=20)
    assert free_bytes(torch.device("cuda")) == 20.5 * 2**30


def test_tiles_depend_on_neither_what_ran_before_nor_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = copy.deepcopy(tiny_pipeline())
    pipeline.unet.register_to_config(block_out_channels=(320, 640, 1280))  # of Stable Diffusion, as to memory
    pipeline.vae.register_to_config(block_out_channels=[128] * 3)
    settings = Sampler(tile="auto", region=1024)
    found = {}
    for total in (6, 24):
        for free, cached, batch in ((0.5, 0.0, 1), (0.5, 20.0, 1), (5.5, 0.0, 1), (5.5, 0.0, 3)):
            with monkeypatch.context() as patch:
                on_a_card(patch, free, total, cached)
                capacity = capacity_bytes(torch.device("cuda"))
                patch.setattr("sspir.sampling.restoration.capacity_bytes", lambda device, held=capacity: held)
                lq = photo(16, 16)[None].repeat(batch, 1, 1, 1)
                work = Restoration(
                    pipeline, lq, ["a"] * batch, (1024, 1024), [0] * batch, settings, None, plain(lq.device)
                )
            told = found.setdefault(total, (work.settings.tile, work.vae_tile, work.warnings))
            assert told == (work.settings.tile, work.vae_tile, work.warnings)
            assert work.settings.tile_batch * batch <= settings.tile_batch
    assert found[24] == (96, None, [])
    assert found[6][:2] == (64, 64)
    assert "tiles of 64, as the device's memory is too small" in found[6][2][0]


@pytest.mark.parametrize(("overlap", "taken"), [(8, 8), (32, 32), (47, 32), (64, 32)])
def test_tiles_of_a_small_device_share_two_thirds_at_most(
    overlap: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sspir.sampling.restoration.capacity_bytes", lambda device: 0)
    settings = Sampler(tile="auto", overlap=overlap)
    work = Restoration(tiny_pipeline(), photo()[None], ["a"], (96, 80), [0], settings, None, plain(CPU)).settings
    assert (work.tile, work.overlap) == (48, taken)


def test_the_capacity_of_a_machine_stays() -> None:
    before = capacity_bytes(CPU)
    block = torch.ones(400 * 2**20 // 4)
    assert capacity_bytes(CPU) == before >= free_bytes(CPU) + block.nbytes


CODE = """
import sys, torch
torch.set_num_threads(1)
from sspir.memory import peak_bytes, reset_peak
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


def test_a_system_that_tells_nothing_is_taken_to_have_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("_STATUS", "_CLEAR", "_CGROUP", "_MEMORY"):
        monkeypatch.setattr(memory, name, tmp_path / "no" / "thing")
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    cpu = torch.device("cpu")
    memory.reset_peak(cpu)
    assert memory.free_bytes(cpu) == memory.capacity_bytes(cpu) == 4 * 2**30
    assert memory.peak_bytes(cpu) == 0

"""Two processes on gloo are one process with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from sspir.run import find_checkpoint, load_checkpoint
from tests.runs import OVERRIDES

PLAIN = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "optimizer.lr=0.1", "schedule=null"]


def launch(folder: Path, photos: Path, processes: int, batch_size: int) -> None:
    places = [f"folder={folder}", f"dataset.train.root={photos}", f"dataset.validation.photos.root={photos}"]
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone",
        "-m", "sspir", "train", *OVERRIDES, *PLAIN, *places, f"batch_size={batch_size}",
        f"trainer.devices={processes}", "trainer.strategy=ddp", "trainer.accumulate_grad_batches=2",
        "trainer.max_steps=2", "module.structure_steps=0", "trainer.gradient_clip_val=0.5",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def test_two_processes_are_one_with_twice_the_batch(photo_folder: Path, tmp_path: Path) -> None:
    launch(tmp_path / "two", photo_folder, processes=2, batch_size=1)
    launch(tmp_path / "one", photo_folder, processes=1, batch_size=2)
    two, one = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("two", "one"))
    for key, value in one["state_dict"].items():
        assert torch.allclose(two["state_dict"][key], value, atol=1e-6), key
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("two", "one")]
    assert abs(summaries[0]["val/psnr_y"] - summaries[1]["val/psnr_y"]) < 1e-3
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((tmp_path / "one" / "metrics.jsonl").read_text().splitlines())  # one record, not two

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start, numpy's threads too
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("SSPIR_PHOTOS", None)
os.environ.pop("SSPIR_PATH", None)
# Whether the weights of LPIPS are on a machine changes what a training measures: only tests of theirs look
for cache in ("SSPIR_CACHE", "TORCH_HOME"):
    os.environ.setdefault(f"{cache}_OF_USER", os.environ.get(cache, ""))  # before a worker inherits what follows
    os.environ[cache] = str(Path(tempfile.gettempdir(), "sspir-tests-without-weights"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))
        gpu = item.get_closest_marker("gpu")
        if gpu and torch.cuda.device_count() < gpu.args[0]:
            item.add_marker(pytest.mark.skip(reason=f"takes {gpu.args[0]} GPU, of which there are fewer here"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach for the network fails; the loopback interface stays open."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"no network in tests: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def cache_of_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches of weights as the user has them."""
    for cache in ("SSPIR_CACHE", "TORCH_HOME"):
        if place := os.environ[f"{cache}_OF_USER"]:
            monkeypatch.setenv(cache, place)
        else:
            monkeypatch.delenv(cache)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three smooth, textured colour pictures for training and two for validation."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        (root / split).mkdir()
        for index in range(count):
            coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(root / split / f"{index}.png")
    return root

"""A real `sspir app` in a process of its own, with the older model that comes along: it takes every setting."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.needs import needs

TOKEN = "a-token-that-is-long"


@dataclass
class Server:
    """A program that serves."""

    process: subprocess.Popen[str]
    port: int
    folder: Path  # for its temporary files

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}"

    def queue(self) -> int:
        """Restorations that it has before it."""
        with urllib.request.urlopen(f"{self.address}/health", timeout=30) as answer:
            return int(answer.read().split(b'"queue":')[1].split(b",")[0])

    def files(self) -> list[str]:
        """What it keeps of people; Gradio leaves empty files behind."""
        found = [Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names]
        return [str(path) for path in found if path.exists() and path.read_bytes()]

    def until_idle(self, seconds: float = 60) -> None:
        wait_until(lambda: not self.queue(), seconds)


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


MODEL = "shipped/tiny"


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    """`sspir app` with these flags; it is told to end at the end."""
    needs("gradio", "app")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    model = [] if "--weights" in flags else ["--weights", MODEL]
    command = [sys.executable, "-m", "sspir", "app", "--port", str(port), *model, *flags]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "SSPIR_TOKEN": TOKEN}
    log = (folder.parent / f"{folder.name}.log").open("w+")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder)
    try:
        assert process.stdout
        line = process.stdout.readline()
        log.seek(0)
        assert f"http://localhost:{port}/?token={TOKEN}" in line, log.read()
        yield Server(process, port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("app") / "served", "--queue", "1", "--max-pixels", "1") as running:
        yield running


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photos; "large.png" takes long."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, sides in {"one.png": (40, 32), "two.jpg": (32, 40), "large.png": (320, 320)}.items():
        coarse = rng.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(folder / name)
    broken = (folder / "two.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(broken[: len(broken) // 2])
    return folder

"""A real `sspir app` in a process of its own, with the older model that comes along: it takes every setting."""

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.needs import needs
from tests.processes import Process, free_port, start

TOKEN = "a-token-that-is-long"


@dataclass
class Server:
    """A program that serves."""

    process: Process
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
        return [str(path) for path in found if size(path)]

    def until_idle(self, seconds: float = 60) -> None:
        wait_until(lambda: not self.queue(), seconds)


def size(path: Path) -> int:
    """In bytes; 0 of what has just been deleted."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


MODEL = "shipped/tiny"


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    """`sspir app` with these flags; it is told to end at the end."""
    needs("gradio", "app")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    model = [] if "--weights" in flags else ["--weights", MODEL]
    log = folder.parent / f"{folder.name}.log"
    log.touch()
    environment = {"TMPDIR": str(folder), "SSPIR_TOKEN": TOKEN}
    command = ["app", "--port", port, *model, *flags]
    process = start(*command, log=log, prepare=partial(os.chdir, folder), environment=environment)
    try:
        wait_until(lambda: f"http://localhost:{port}/?token={TOKEN}" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Server(process, port, folder)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


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

"""`sspir` in a process of its own.

Importing takes seven seconds, so a server imports once and forks what tests start. It is a fresh interpreter without
threads: a fork of the tests' own process, which has some, may hang. What libraries take from the environment as they
are imported, such as RANK, they took before: such a process needs an interpreter of its own.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sspir.__main__ import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["sspir.training.fit", "sspir.training.module", "sspir.restoring.runner"])


class Process:
    """`sspir` that runs, with what tests need of `Popen`.

    Args:
        arguments: of the command.
        log: file that what it prints is appended to.
        prepare: called in the process first; it can be pickled.
    """

    def __init__(self, arguments: list[str], log: str | Path, prepare: Callable[[], Any] | None) -> None:
        self._process = SERVER.Process(target=_run, args=(arguments, dict(os.environ), log, prepare))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        if self.poll() is None:
            self.kill()  # or the tests would wait for it at their end
            raise AssertionError(f"not ended in {seconds} seconds")
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    *arguments: object,
    log: str | Path = os.devnull,
    prepare: Callable[[], Any] | None = None,
) -> Process:
    """Start `sspir`; see `Process`."""
    return Process(list(map(str, arguments)), log, prepare)


def _run(arguments: list[str], environment: dict[str, str], log: str | Path, prepare: Callable[[], Any] | None) -> None:
    threads = Path(f"/proc/{os.getppid()}/task")
    assert not threads.is_dir() or len(list(threads.iterdir())) == 1, "the server has threads: a fork of it may hang"
    multiprocessing.set_start_method(None, force=True)  # of what it starts: the default, not the server's
    os.environ.clear()
    os.environ.update(environment)
    with Path(log).open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if prepare:
        prepare()
    sys.argv = ["sspir", *arguments]
    sys.exit(main(arguments))


def wait_until(condition: Callable[[], bool], process: Process, seconds: float = 120) -> None:
    """Wait for what a process is to do; fail once it has ended without, or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with {process.poll()} before"
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"not in {seconds} seconds")
        time.sleep(0.001)

"""`sspir` in a process of its own.

Importing takes seven seconds, so a server imports once and forks what tests start. It is a fresh interpreter without
threads: a fork of the tests' own process, which has some, may hang. What libraries take from the environment as they
are imported they took before: who needs that starts an interpreter of its own.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from sspir.__main__ import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["sspir.training.fit", "sspir.training.module", "sspir.restoring.runner"])


class Process:
    """`sspir` that runs, with what tests need of `Popen`.

    Args:
        arguments: of the command.
        log: file that what it prints is appended to.
        prepare: called in the process first; it can be pickled.
        environment: variables of its own, beside those of the tests.
    """

    def __init__(
        self,
        arguments: list[str],
        log: str | Path,
        prepare: Callable[[], Any] | None,
        environment: Mapping[str, str],
    ) -> None:
        variables = {**os.environ, **environment}
        self._process = SERVER.Process(target=_run, args=(arguments, variables, log, prepare))
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
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Process:
    """Start `sspir`; see `Process`."""
    return Process(list(map(str, arguments)), log, prepare, environment)


def run_ranks(count: int, *arguments: object, log: Path, seconds: float = 400) -> None:
    """Run `sspir` in several processes at once, as torchrun starts them; all must end well."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "tests"}
    group |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"} for rank in range(count)]
    ranks = [start(*arguments, log=log, environment=group | place) for place in places]
    try:
        assert [rank.wait(seconds) for rank in ranks] == [0] * count, log.read_text()[-4000:]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _run(arguments: list[str], environment: dict[str, str], log: str | Path, prepare: Callable[[], Any] | None) -> None:
    threads = Path(f"/proc/{os.getppid()}/task")
    assert not threads.is_dir() or len(list(threads.iterdir())) == 1, "the server has threads: a fork of it may hang"
    multiprocessing.set_start_method(None, force=True)  # of what it starts: the default, not the server's
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    rank_zero_only.rank = int(os.environ.get("RANK", "0"))
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

"""`sspir` in a process of its own. A fork of a process with threads may abort, so tests start a fresh one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def start(*arguments: object, **options: Any) -> subprocess.Popen:
    """Start `sspir` with these arguments; `options` are those of `Popen`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sspir", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait for what a process is to do; fail once it has ended without, or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with {process.returncode} before"
        assert time.monotonic() < deadline, f"not in {seconds} seconds"
        time.sleep(0.001)

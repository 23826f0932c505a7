"""The program that serves the page and the endpoint, until it is told to end."""

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from sspir.app.guard import LOOPBACK, Guard
from sspir.app.queue import Queue
from sspir.errors import UserError

GRACE = 3
"""Seconds that open connections have after the program was told to end."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for everything that is handed in and made; it is deleted at the end.

    Gradio, which reads the place from the environment when it is imported, keeps its files there, too.
    """
    with tempfile.TemporaryDirectory(prefix="sspir-app-") as name:
        folder = Path(name).resolve()
        os.environ |= {"GRADIO_TEMP_DIR": str(folder / "gradio"), "GRADIO_ANALYTICS_ENABLED": "False"}
        yield folder


def listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded.

    Raises:
        UserError: another program has it, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen()
    except OSError as error:
        taken.close()
        raise UserError(
            f"{host}:{port} cannot be served ({error.strerror}); choose another --port or --host."
        ) from error
    return taken


def serve(guard: Guard, queue: Queue, taken: socket.socket, token: str | None) -> None:
    """Serve until SIGINT or SIGTERM, after which the signal is raised again; restorations are cancelled.

    Args:
        guard: the application.
        queue: of its restorations.
        taken: see `listen`.
        token: for the address that is printed.
    """
    host, port = taken.getsockname()[:2]
    host = "localhost" if host in LOOPBACK else f"[{host}]" if ":" in host else host
    query = f"?token={token}" if token else ""
    sys.stdout.write(f"Open http://{host}:{port}/{query} in a browser; Ctrl-C ends it.\n")
    sys.stdout.flush()
    config = uvicorn.Config(
        guard, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False, access_log=False
    )
    _Server(config, queue).run([taken])


class _Server(uvicorn.Server):
    """uvicorn's server, which cancels restorations when it is told to end: their answers hold up its end."""

    def __init__(self, config: uvicorn.Config, queue: Queue) -> None:
        super().__init__(config)
        self._queue = queue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._queue.close()
        super().handle_exit(sig, frame)

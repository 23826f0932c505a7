"""How signals end a command, and a SIGTERM a whole sweep."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any

from sspir.errors import UserError


class EndedError(BaseException):
    """A signal asked to end; no `except Exception` on the way holds it up."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def signals_to(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within, SIGINT and SIGTERM go to a handler, also where a shell has them ignored."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class StoppedError(UserError):
    """A job that a SIGTERM has stopped after it saved, or that came after one."""


class Stop:
    """Lets a SIGTERM end a sweep whose jobs run in processes of joblib, after every job has saved.

    The process that started the sweep passes the signal on to the jobs. A job that has saved returns as failed: if its
    process ended, joblib would kill the jobs that are still saving.
    """

    received = False  # whether this process got a SIGTERM

    @classmethod
    @contextmanager
    def passed_on(cls, arguments: Sequence[str]) -> Iterator[None]:
        """Within, pass a SIGTERM on to joblib's processes; afterwards exit with 143 if there was one.

        Nothing is done unless the arguments choose joblib's launcher: the job is in this process, and Lightning saves.
        """
        if "hydra/launcher=joblib" not in arguments:
            yield
            return
        before = signal.signal(signal.SIGTERM, cls._pass_on)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if cls.received:
                sys.exit(143)

    @classmethod
    def _pass_on(cls, signum: int, frame: Any) -> None:
        cls.received = True
        workers = [child for child in active_children() if type(child).__module__.startswith("joblib.")]
        for worker in workers:
            worker.terminate()
        if not workers:
            sys.exit(143)

    @classmethod
    @contextmanager
    def in_process(cls) -> Iterator[None]:
        """For a job in a process of its own: fail instead of ending the process.

        Raises:
            StoppedError: the job was stopped, or comes after one that was.
        """
        sentence = "The sweep was stopped by SIGTERM; the same command goes on."
        if cls.received:
            raise StoppedError(sentence)
        try:
            yield
        except SystemExit as stop:
            cls.received = True
            raise StoppedError(sentence) from stop

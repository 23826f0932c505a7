"""Signals that stop a training of several processes, after the same batch in all of them."""

import signal
import threading
import time
from typing import Any

import pytorch_lightning as pl
import torch

PAUSE = 1.0  # seconds within which Ctrl-C counts once: torchrun sends on what each process has had from the terminal


class Stopping:
    """Takes note of SIGTERM and Ctrl-C, of which the processes tell each other between batches.

    Lightning has them do so within its handler of SIGTERM: what is said there may meet what another process says of
    gradients, and both wait for ever. Nor is its own question before each batch needed then.

    Args:
        trainer: of several processes, before it registers its handlers.

    Attributes:
        at_once: whether a second Ctrl-C stops this process wherever it is: then the others cannot save with it.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.at_once = False
        self._received, self._since = 0, 0.0
        trainer._signal_connector._sigterm_notifier_fn = self._note  # type: ignore[method-assign, assignment]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def listen(self) -> None:
        """Take note of Ctrl-C from here on, unless somebody else does; Lightning takes it back after the fit."""
        own = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if threading.current_thread() is threading.main_thread() and not own:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._received and now - self._since > PAUSE:
            self.at_once = True
            raise KeyboardInterrupt
        if not self._received:
            self._since = now
        self._received = max(self._received, number)

    def ask(self, trainer: pl.Trainer) -> int:
        """The signal that any process has received, 0 for none; all of them must ask, after the same batch."""
        received = torch.tensor(self._received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))

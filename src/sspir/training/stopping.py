"""Signals that stop a training of several processes, after the same step in all of them."""

import logging
import signal
import threading
import time
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

log = logging.getLogger(__name__)

REPEATED = 1.0  # seconds after which a second Ctrl-C is another one: torchrun sends on the first, which all have had


class Stopping:
    """Notes SIGTERM and Ctrl-C in place of Lightning, which has processes talk within its handler of signals.

    What they say there may meet what another process says of gradients, and both wait for ever. Here they agree between
    batches, by messages from CPU to CPU, which wait for no device; so Lightning's own question before each batch, which
    does, is not asked.

    Args:
        trainer: of several processes, whose training begins.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._received, self._since = 0, 0.0
        self._group: Any = dist.new_group(backend="gloo")
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    signal.signal(number, self._note)  # Lightning takes it back

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._received and now - self._since > REPEATED:
            raise KeyboardInterrupt
        if not self._received:
            self._since = now
            log.warning("%s: all processes stop when this batch is done.", signal.Signals(number).name)
        self._received = max(self._received, number)

    def agreed(self) -> int:
        """The signal that any process has received, 0 for none; asked by all of them after the same batch."""
        number = torch.tensor(self._received)
        dist.all_reduce(number, dist.ReduceOp.MAX, self._group)
        return int(number)

"""One job at a time, in the order in which they came, each of which can be left at any moment."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from sspir.errors import UserError

if TYPE_CHECKING:  # trouble at the start is told before torch is imported
    from torch import Tensor

    from sspir.sampling.loop import Step


class FullError(UserError):
    """There is no place left in the queue.

    Attributes:
        seconds: after which there is one, about.
    """

    def __init__(self, most: int, seconds: float) -> None:
        super().__init__(f"{most} others are waiting already; try again in {seconds:.0f} seconds.")
        self.seconds = seconds


class LeftError(BaseException):
    """A job was cancelled; no `except Exception` on the way holds it up."""


class Ticket:
    """A job's place in the queue, and what it has come to.

    Attributes:
        result: of the job, once it is done.
        error: that ended it, `LeftError` if it was cancelled.
        share: of the job that is done, 0 to 1.
        preview: (3, h, w) in [0, 1], rough; None before there is one.

    Args:
        queue: that it waits in.
        work: the job. It is called with the ticket.
        counts: whether it takes one of the queue's places; small jobs do not.
    """

    def __init__(self, queue: "Queue", work: "Callable[[Ticket], Any]", counts: bool = True) -> None:
        self.counts = counts
        self.result: Any = None
        self.error: BaseException | None = None
        self.share = 0.0
        self.preview: Tensor | None = None
        self._queue, self._work = queue, work
        self._done, self._left = threading.Event(), threading.Event()

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._done.is_set()

    @property
    def place(self) -> int:
        """Jobs that are before it, the one at work among them; small ones do not count."""
        return self._queue.place(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, at most so long; returns `done`."""
        return self._done.wait(seconds)

    def outcome(self) -> Any:
        """The result.

        Raises:
            BaseException: the error that ended it.
        """
        self.wait()
        if self.error is not None:
            raise self.error
        return self.result

    def cancel(self) -> None:
        """Leave: at once while it waits, after the step at work otherwise."""
        self._left.set()
        self._queue.drop(self)

    def on_step(self, share: float, step: "Step") -> None:
        """What a restoration calls after each step; `share` as of `JobRunner`.

        Raises:
            LeftError: it was cancelled.
        """
        self.check()
        self.share = min(1.0, self.share + share)
        self.preview = step.preview()[0].cpu()  # by this thread: a wait of another one spoils what a GPU records

    def check(self) -> None:
        """What a job calls now and then.

        Raises:
            LeftError: it was cancelled.
        """
        if self._left.is_set():
            raise LeftError

    def run(self) -> None:
        """Do the job, unless it was cancelled; for the queue."""
        try:
            self.check()
            self.result = self._work(self)
        except BaseException as error:  # told to whoever waits for it
            self.end(error)
        else:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        """Tell whoever waits; for the queue."""
        self.error = error and error.with_traceback(None)  # which would hold the job's tensors
        self._done.set()


class Queue:
    """Runs jobs one after the other in a thread of its own.

    Args:
        most: jobs that may wait; small ones do not count.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 10.0  # that a job takes, about
        self._thread = threading.Thread(target=self._serve, name="restoring", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel everything, and wait for the step at work."""
        self.close()
        self._thread.join()

    def __len__(self) -> int:
        """Jobs that wait or are at work, small ones too."""
        with self._changed:
            return len(self._waiting) + (self._running is not None)

    def submit(self, work: Callable[[Ticket], Any], counts: bool = True) -> Ticket:
        """Add a job; arguments as of `Ticket`.

        Raises:
            FullError: too many wait.
            UserError: the program is about to end.
        """
        ticket = Ticket(self, work, counts)
        with self._changed:
            if self._closed:
                raise UserError("The program is ending; start it again.")
            if counts and sum(each.counts for each in self._waiting) >= self.most:
                raise self._full()
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def require_room(self) -> None:
        """Refuse what would find no place.

        Raises:
            FullError: too many wait.
        """
        with self._changed:
            if sum(each.counts for each in self._waiting) >= self.most:
                raise self._full()

    def _full(self) -> FullError:
        return FullError(self.most, max(1.0, self._seconds * (1 + len(self._waiting))))

    def place(self, ticket: Ticket) -> int:
        """See `Ticket.place`."""
        with self._changed:
            if ticket not in self._waiting:
                return 0
            before = [*([self._running] if self._running else []), *self._waiting]
            return sum(each.counts for each in before[: before.index(ticket)])

    def drop(self, ticket: Ticket) -> None:
        """Take a cancelled job out, if it still waits."""
        with self._changed:
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        ticket.end(LeftError())

    def close(self) -> None:
        """Take no more jobs, and cancel those that are here; does not wait."""
        with self._changed:
            self._closed = True
            here = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify()
        for ticket in here:
            ticket.cancel()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._running = ticket = self._waiting.popleft()
            started = time.monotonic()
            ticket.run()
            with self._changed:
                self._running = None
                if ticket.counts and ticket.error is None:
                    self._seconds = (self._seconds + time.monotonic() - started) / 2
            del ticket  # whose result is somebody else's by now

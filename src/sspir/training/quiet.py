"""Lightning's warnings that mean nothing."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FALSE_ALARMS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own call
    r"Found \d+ module\(s\) in eval mode",  # frozen networks are
    r"It is recommended to use `self\.log\(.*sync_dist=True",  # a validation's, which are of all ranks
    r"Checkpoint directory .* exists and is not empty",  # a run goes on
    r"The '\w+' does not have many workers",  # asked for by `workers`
)


@contextmanager
def without_false_alarms() -> Iterator[None]:
    """Within, without Lightning's warnings that every run of ours causes and that mean nothing."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_without_adverts)
    with warnings.catch_warnings():
        for message in _FALSE_ALARMS:
            warnings.filterwarnings("ignore", message)
        yield


def _without_adverts(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()

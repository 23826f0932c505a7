"""The device of a computation: what goes to it without a wait, and what is replayed on it."""

from sspir.device.replay import Replays, modules_of, replayed, replaying, weights_of
from sspir.device.transfer import Coming, constant, kept_on_device, sent

__all__ = [
    "Coming", "Replays", "constant", "kept_on_device", "modules_of", "replayed", "replaying", "sent", "weights_of",
]  # fmt: skip

"""The device of a computation: what goes to it without a wait, and what is replayed on it."""

from sspir.device.replay import Replays, replayed, weights_of
from sspir.device.transfer import Coming, constant, kept_on_device, sent

__all__ = ["Coming", "Replays", "constant", "kept_on_device", "replayed", "sent", "weights_of"]

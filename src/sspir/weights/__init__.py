"""Our own networks: loaded from a run, a saved pipeline or the authors' checkpoint, and exported."""

from typing import Any

from sspir.moved import old_name
from sspir.weights.authors import load_authors
from sspir.weights.load import SHIPPED, load_pipeline

__all__ = ["SHIPPED", "load_authors", "load_pipeline"]


def __getattr__(name: str) -> Any:
    """Names that have moved."""
    return old_name(__name__, name)

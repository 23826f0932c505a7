"""Configurations: composed, checked and built into objects."""

from typing import Any

from sspir.moved import old_name


def __getattr__(name: str) -> Any:
    """Names that have moved."""
    return old_name(__name__, name)

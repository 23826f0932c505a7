"""Packages that a test may lack on somebody's machine, but not in continuous integration."""

import os
from importlib import import_module
from typing import Any

import pytest


def needs(module: str, extra: str) -> Any:
    """The module, or the test is skipped; where CI is set, it fails.

    Args:
        module: to import.
        extra: of pyproject.toml that brings it.
    """
    try:
        return import_module(module)
    except ImportError:
        lacks(f"{module} is not installed: pip install 'sspir[{extra}]'")


def lacks(reason: str) -> None:
    """Skip the test; where CI is set, fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)

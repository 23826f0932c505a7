"""Folders of people's own classes and configurations, which they name by SSPIR_PATH or --path."""

import os
from pathlib import Path

VARIABLE = "SSPIR_PATH"


def folders() -> list[Path]:
    """The folders that the user named, in order, as absolute paths."""
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [Path(text).expanduser().resolve() for text in named if text]

"""Folders of generated photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten noisy photos of different widths in two subfolders."""
    generator = np.random.default_rng(0)
    for i in range(10):
        pixels = generator.integers(0, 256, (40, 36 + i, 3), dtype=np.uint8)
        (tmp_path / "photos" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / str(i % 2) / f"{i}.png")
    return tmp_path / "photos"

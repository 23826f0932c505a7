"""One number per operation and preset: what they do does not change unnoticed.

`python -m tests.degradation.test_golden` writes the numbers anew, after a change that is meant.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.degradation.operations import ACTIVE
from tests.degradation.presets import PRESETS, preset
from tests.degradation.test_laws import draw, images

FILE = Path(__file__).with_name("golden.json")


def fingerprint(image: Tensor) -> float:
    """A sum in which every pixel has a weight of its own."""
    weights = torch.linspace(0.5, 1.5, image.numel(), dtype=torch.float64)
    return float((image.double().flatten() * weights).mean())


def compute(name: str) -> float:
    photos = images(1, 48, 40)
    if name in ACTIVE:
        return fingerprint(
            torch.cat([ACTIVE[name].apply(photos, [draw(ACTIVE[name], s, 48, 40)]).flatten() for s in range(3)])
        )
    return fingerprint(preset(name)(photos.repeat(3, 1, 1, 1), [0, 1, 2]))


@pytest.mark.parametrize("name", [*ACTIVE, *PRESETS])
def test_golden(name: str) -> None:
    # through several JPEGs a difference in the last bit grows to a quantisation step here and there
    tolerance = 1e-4 if name in ACTIVE else 1e-3
    assert compute(name) == pytest.approx(json.loads(FILE.read_text())[name], abs=tolerance)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: compute(name) for name in [*ACTIVE, *PRESETS]}, indent=1) + "\n")

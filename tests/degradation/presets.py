"""The shipped presets, as Hydra builds them."""

from functools import cache
from pathlib import Path

from hydra.utils import instantiate

from sspir.config.compose import load_choice
from sspir.degradation import Degradation

FOLDER = Path(__file__).parents[2] / "conf" / "degradation"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def preset(name: str) -> Degradation:
    degradation = instantiate(load_choice("degradation", name))
    assert isinstance(degradation, Degradation)
    return degradation

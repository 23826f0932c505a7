"""Configurations: composed, checked and built into objects."""

from sspir.config.build import build
from sspir.config.compose import choices, compose_config, home, load_choice, register, told
from sspir.config.schema import EvaluateConfig, TrainConfig

__all__ = [
    "EvaluateConfig",
    "TrainConfig",
    "build",
    "choices",
    "compose_config",
    "home",
    "load_choice",
    "register",
    "told",
]

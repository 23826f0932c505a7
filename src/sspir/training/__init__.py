"""Training: one LightningModule, its callbacks and losses, and the run folder that it leaves behind."""

from importlib import import_module
from typing import Any

PUBLIC = {
    "EMA": "callbacks",
    "EarlyStopping": "callbacks",
    "JsonLinesLogger": "loggers",
    "LogRestorations": "panels",
    "Milestones": "saving",
    "Pace": "progress",
    "RestorationLoss": "losses",
    "RestorationModule": "module",
    "SaveAtEnd": "saving",
    "ShardedStrategy": "strategy",
    "SkipNaN": "updates",
    "StepProgress": "progress",
    "TensorBoardLogger": "tensorboard",
    "cosine": "schedule",
    "train": "fit",
    "wandb_logger": "loggers",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    """Import the module of a name, and with it Lightning, which takes seconds, only when the name is used."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

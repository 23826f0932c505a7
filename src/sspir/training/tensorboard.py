"""A run's numbers, configuration and pictures for TensorBoard."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from PIL.Image import Image
from pytorch_lightning import loggers

from sspir.config.trust import dotted, leaves
from sspir.errors import UserError
from sspir.training.history import is_validated, read_history
from sspir.training.run import METRICS, TENSORBOARD


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's logger, over the steps of our own record: a run that goes on hides the steps that it makes again.

    Args:
        folder: of the run.

    Raises:
        UserError: the package is missing.
    """

    def __init__(self, folder: str) -> None:
        if find_spec("tensorboard") is None:
            raise UserError("logger=tensorboard needs the package tensorboard: pip install 'sspir[tensorboard]'")
        record = Path(folder) / METRICS
        lines = [*read_history(record)] if record.is_file() else []
        self.begun_after = max((int(line["step"]) for line in lines), default=0)
        last = [line for line in lines if line["step"] == self.begun_after]
        validated = any(is_validated(name) for line in last for name in line)
        self._again = [] if validated else last  # hidden with what a validation that was broken off has left
        hidden = self.begun_after + validated
        super().__init__(folder, TENSORBOARD, version="", default_hp_metric=False, purge_step=hidden, flush_secs=10)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; Lightning numbers the update that is being made from 0."""
        super().log_metrics(metrics, None if step is None else step + 1)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log a whole configuration: as text, and setting by setting beside the values of its `monitor`."""
        from torch.utils.tensorboard.summary import hparams

        super().log_hyperparams(params)
        for line in self._again:
            super().log_metrics({name: value for name, value in line.items() if name != "step"}, line["step"])
        config = OmegaConf.create(vars(params) if isinstance(params, Namespace) else params)
        indented = "".join(f"    {line}\n" for line in OmegaConf.to_yaml(config).splitlines())  # Markdown's code
        self.experiment.add_text("configuration", indented, self.begun_after)
        flat = {dotted(key): value if isinstance(value, int | float) else str(value) for key, value in leaves(config)}
        for summary in hparams(flat, {f"val/{config.monitor}": None}):
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image], step: int, **_: Any) -> None:
        """Log pictures under one name, as W&B's logger does; `step` counts as in `log_metrics`."""
        for image in images:
            self.experiment.add_image(key, np.asarray(image), step + 1, dataformats="HWC")

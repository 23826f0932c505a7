"""ColorVideoVDP: the difference that people see on a given display (Mantiuk et al. 2024)."""

import logging
from typing import Any

import torch
from torch import Tensor

from sspir.metrics.base import FullReferenceMetric, MetricUnavailableError, check_pair, to_pixels


class ColorVideoVDP(FullReferenceMetric):
    """Visible differences on a display (Mantiuk et al. 2024), through the package cvvdp (MIT, extra `perceptual`).

    Args:
        display: the viewing condition, a name of cvvdp's `display_models.json`.
    """

    limits = (0.0, 10.0)

    def __init__(self, display: str = "standard_4k") -> None:
        super().__init__()
        self.display = display
        self._model: Any = None

    def require(self) -> None:
        """Load the model.

        Raises:
            MetricUnavailableError: the package is missing.
        """
        if self._model is None:
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime is found"
            try:
                from pycvvdp import cvvdp
            except ImportError as error:
                raise MetricUnavailableError(
                    "ColorVideoVDP needs the package cvvdp; pip install 'sspir[perceptual]'."
                ) from error
            self._model = cvvdp(display_name=self.display, device=torch.device("cpu"), quiet=True)

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Quality in just-objectionable-differences (B,) in [0, 10], higher is better."""
        self.require()
        check_pair(preds, target)
        pairs = zip(to_pixels(preds).cpu() / 255, to_pixels(target).cpu() / 255, strict=True)
        values = [self._model.predict(a, b, dim_order="CHW")[0] for a, b in pairs]
        return torch.stack(values).to(preds.device)

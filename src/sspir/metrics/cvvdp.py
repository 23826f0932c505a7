"""ColorVideoVDP: the difference that people see on a given display (Mantiuk et al. 2024)."""

import logging
from typing import Any

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import FullReferenceMetric, MetricUnavailableError, check_pair, to_pixels

SMALLEST = 16  # pixels of a side: its pyramid needs some levels


class ColorVideoVDP(FullReferenceMetric):
    """Quality on a display in just-objectionable differences, 10 where none is seen (Mantiuk et al. 2024).

    It takes the package cvvdp (MIT licence, extra `perceptual`).

    Args:
        display: the viewing condition, a name of cvvdp's `display_models.json`.
    """

    def __init__(self, display: str = "standard_4k") -> None:
        super().__init__()
        self.display = display
        self._idle: list[Any] = []  # models keep the pyramid of their last image: one for each thread that measures

    def require(self) -> None:
        """Load the model; raises MetricUnavailableError where the package is missing, UserError for another display."""
        if not self._idle:
            self._idle.append(self._build())

    def _build(self) -> Any:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime is found"
        try:
            from pycvvdp import cvvdp, vq_exception
        except ImportError as error:
            raise MetricUnavailableError(
                "ColorVideoVDP needs the package cvvdp; pip install 'sspir[perceptual]'."
            ) from error
        try:
            return cvvdp(display_name=self.display, device=torch.device("cpu"), quiet=True)
        except vq_exception as error:
            raise UserError(
                f"ColorVideoVDP knows no display {self.display!r} ({error}); name one that stands there, such as "
                f"standard_4k or standard_fhd."
            ) from error

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Quality in just-objectionable-differences (B,) in [0, 10], higher is better."""
        check_pair(preds, target, SMALLEST)
        pairs = list(zip(to_pixels(preds).cpu() / 255, to_pixels(target).cpu() / 255, strict=True))
        try:
            model = self._idle.pop()
        except IndexError:
            model = self._build()
        values = [model.predict(a, b, dim_order="CHW")[0] for a, b in pairs]
        self._idle.append(model)
        return torch.stack(values).to(preds.device)

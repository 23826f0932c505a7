"""Full-reference measures that agree with eyes better than PSNR and need no downloaded weights.

Chosen among what `piq` and torchmetrics offer offline, by rank correlation with people on KADID-10k and PIPAL (piq's
README): HaarPSI (.89, .59) leads, together with MDSI, which measures the same; GMSD (.85, .58) looks at gradients alone
and costs a hundredth of a second; VIF (.65, .50) correlates worst but sees what blur took away, and, being
information, is not improved by noise. ColorVideoVDP models contrast sensitivity on a given display and is the
best of them on colour; it brings many packages, so it is an extra.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.metrics.base import FullReferenceMetric, MetricUnavailableError, check_pair, to_pixels


class VIF(FullReferenceMetric):
    """Visual information fidelity in pixels of Y (Sheikh and Bovik 2006), through piq; needs 41 x 41 pixels."""

    limits = (0.0, 1.0)

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Share of the truth's information (B,), 1 for identical images, higher is better."""
        from piq import vif_p

        return vif_p(*_as_saved(preds, target, 41), data_range=1.0, reduction="none")


class HaarPSI(FullReferenceMetric):
    """Haar wavelet-based perceptual similarity (Reisenhofer et al. 2018), through piq; needs 16 x 16 pixels."""

    limits = (0.0, 1.0)

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Similarity (B,) in [0, 1], higher is better."""
        from piq import haarpsi

        return haarpsi(*_as_saved(preds, target, 16), data_range=1.0, reduction="none")


class GMSD(FullReferenceMetric):
    """Gradient magnitude similarity deviation (Xue et al. 2014), through piq; needs 16 x 16 pixels."""

    higher_is_better = False
    limits = (0.0, 1.0)

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Deviation (B,), 0 for identical images, lower is better."""
        from piq import gmsd

        return gmsd(*_as_saved(preds, target, 16), data_range=1.0, reduction="none")


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
        pairs = zip(*_as_saved(preds.cpu(), target.cpu(), 16), strict=True)
        values = [self._model.predict(a, b, dim_order="CHW")[0] for a, b in pairs]
        return torch.stack(values).to(preds.device)


def _as_saved(preds: Tensor, target: Tensor, smallest: int) -> tuple[Tensor, Tensor]:
    """Both images (B, 3, H, W) rounded to 8 bits, in [0, 1].

    Raises:
        UserError: a side is shorter than `smallest` pixels.
    """
    check_pair(preds, target)
    if min(preds.shape[-2:]) < smallest:
        size = tuple(preds.shape[-2:])
        raise UserError(f"This metric needs sides of at least {smallest} pixels, got {size}; leave it out.")
    return to_pixels(preds) / 255, to_pixels(target) / 255

"""The losses of training: of the noise, and of the Processor's images in colour and in frequency."""

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.errors import UserError
from sspir.numbers import POSITIVE, WEIGHT
from sspir.objectives.picture_losses import Norm, frequency_l1
from sspir.training.strategy import mean_of_processes


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Loss weight per sample (B,) that caps the signal-to-noise ratio (Hang et al. 2023, section 3.4).

    Args:
        snr: (B,) signal-to-noise ratio of the timesteps.
        gamma: the cap; 5 in the paper.
        prediction_type: "epsilon", "v_prediction" or "sample": what the network predicts.
    """
    capped = snr.clamp(max=gamma)
    if prediction_type == "sample":
        return capped
    return capped / (snr if prediction_type == "epsilon" else snr + 1)


class RestorationLoss(nn.Module):
    """L = MSE(noise) + sum over scales of rgb * L1 + frequency * L1 of spectra (SSP-IR).

    Args:
        rgb: weight of the colour loss; 0 switches it off.
        frequency: weight of the spectral loss; 0 switches it off.
        frequency_norm: see `frequency_l1`.
        min_snr_gamma: cap of the noise loss's weighting; None weights all timesteps alike, as the authors do.

    Raises:
        UserError: a number is out of range, or the norm not known.
    """

    def __init__(
        self,
        rgb: float = 0.1,
        frequency: float = 0.01,
        frequency_norm: Norm = "backward",
        min_snr_gamma: float | None = None,
    ) -> None:
        super().__init__()
        if frequency_norm not in get_args(Norm):
            raise UserError(f"loss.frequency_norm={frequency_norm} is not known; choose {' or '.join(get_args(Norm))}.")
        self.rgb = WEIGHT.require("loss.rgb", rgb)
        self.frequency = WEIGHT.require("loss.frequency", frequency)
        self.frequency_norm: Norm = frequency_norm
        gamma = min_snr_gamma
        self.min_snr_gamma = None if gamma is None else POSITIVE.require("loss.min_snr_gamma", gamma)

    @property
    def supervises(self) -> bool:
        """Whether the Processor's images have a loss."""
        return bool(self.rgb or self.frequency)

    def noise(self, prediction: Tensor, target: Tensor, snr: Tensor, prediction_type: str) -> Tensor:
        """Mean squared error of the network's prediction, weighted by `min_snr_gamma`.

        Args:
            prediction: (B, C, h, w).
            target: (B, C, h, w).
            snr: (B,) signal-to-noise ratio of the timesteps.
            prediction_type: see `min_snr_weight`.
        """
        if self.min_snr_gamma is None:
            return F.mse_loss(prediction.float(), target.float())
        error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
        return (error * min_snr_weight(snr, self.min_snr_gamma, prediction_type)).mean()

    def structure(self, images: Sequence[Tensor], hq: Tensor) -> dict[str, Tensor]:
        """Weighted losses "rgb" and "frequency" of the Processor's images, summed over scales.

        Args:
            images: (B, 3, ., .) in [-1, 1], one per scale; none gives no losses.
            hq: (B, 3, H, W) in [0, 1].
        """
        losses: dict[str, Tensor] = {}
        truth = 2 * hq.float() - 1
        for image in images:
            size = image.shape[-2:]
            target = truth if size == truth.shape[-2:] else F.interpolate(truth, size, mode="bilinear")
            if self.rgb:
                losses["rgb"] = losses.get("rgb", 0) + self.rgb * F.l1_loss(image.float(), target)
            if self.frequency:
                term = frequency_l1(image, target, self.frequency_norm)
                losses["frequency"] = losses.get("frequency", 0) + self.frequency * term
        return losses


class StepLosses:
    """The losses of an optimizer step, of all its batches and processes, whose gradients it averages too."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Count a batch's losses in; returns their sum, to be minimised."""
        total = torch.stack(list(losses.values())).sum()
        for name, value in {"total": total, **losses}.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach()
        self._batches += 1
        return total

    def mean(self) -> dict[str, Tensor]:
        """Logged name -> mean; the next step begins. Called by every process, at every step: nothing is waited for."""
        values = mean_of_processes(torch.stack(list(self._sums.values())) / self._batches)
        names, self._sums, self._batches = list(self._sums), {}, 0
        return {f"loss/{name}": value for name, value in zip(names, values, strict=True)}

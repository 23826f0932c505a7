"""Base classes of image metrics: a value per image, and the mean over any number of images."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import ClassVar, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from sspir.errors import UserError

WITHOUT_FLOAT64 = ("mps",)
"""Kinds of devices that know no float64."""


class MetricUnavailableError(UserError):
    """A metric cannot run here; the text says which package or weights are missing, and where they go."""


class ImageMetric(Metric):
    """A number per image, averaged over images by a sum and a count, so memory does not grow with the set.

    Attributes:
        needs_reference: `update(preds, target)` where true, `update(preds)` where false.
        higher_is_better: None for ratios, which are best at `ideal`.
        ideal: the value of a perfect restoration, where it is not an end of the scale.
    """

    needs_reference: ClassVar[bool] = True
    higher_is_better: bool | None = True
    ideal: ClassVar[float | None] = None
    is_differentiable = False
    full_state_update = False
    score: Callable[..., Tensor]  # (preds) or (preds, target) -> a value per image
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> Self:
        """Move networks, and the sums with them unless the device knows no float64: they stay where they are."""
        stay = fn(torch.empty(0)).device.type in WITHOUT_FLOAT64
        return super()._apply(fn, ("total", "count") if stay else exclude_state)  # type: ignore[return-value]

    def require(self) -> None:
        """Load whatever the metric needs beside this package; most need nothing.

        Raises:
            MetricUnavailableError: it is not there; nothing is downloaded.
        """

    def _add(self, values: Tensor) -> None:
        """Add a value per image; one that is undefined, such as NIQE of a flat picture, is as if it were not there."""
        finite = values.isfinite()
        self.total += values.where(finite, 0).sum().to(self.total)
        self.count += finite.sum().to(self.count)

    def compute(self) -> Tensor:
        """Mean over all images so far whose value is defined, a scalar; NaN where there is none."""
        return (self.total / self.count).float()


class FullReferenceMetric(ImageMetric):
    """Compares a restored image with the truth."""

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Values (B,) of preds (B, 3, H, W) against target (B, 3, H, W), both RGB in [0, 1]."""
        raise NotImplementedError

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the images of preds (B, 3, H, W) and target (B, 3, H, W), both RGB in [0, 1]."""
        self._add(self.score(preds, target))


class NoReferenceMetric(ImageMetric):
    """Judges an image alone."""

    needs_reference = False

    def score(self, preds: Tensor) -> Tensor:
        """Values (B,) of preds (B, 3, H, W), RGB in [0, 1]."""
        raise NotImplementedError

    def update(self, preds: Tensor, target: Tensor | None = None) -> None:
        """Add the images of preds (B, 3, H, W), RGB in [0, 1]; a truth is not looked at."""
        self._add(self.score(preds))


class PlainMetric(ImageMetric):
    """Any metric of torchmetrics, image by image.

    Args:
        metric: whose `update` takes (preds, target) or (preds), and whose `compute` gives one number.

    Raises:
        UserError: it does not say which values are the good ones.
    """

    _measuring = Lock()  # its state is that of one image; images are measured in several threads

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        if metric.higher_is_better is None:
            raise UserError(
                f"{type(metric).__name__} has no direction; set higher_is_better in its class, true or false."
            )
        self.metric = metric
        parameters = inspect.signature(metric.update).parameters.values()
        self._arguments = sum(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]  # said by the metric, not by this class
        """Whether `update` takes a truth."""
        return self._arguments > 1

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """The direction of the torchmetrics metric."""
        return self.metric.higher_is_better

    def score(self, preds: Tensor, target: Tensor | None = None) -> Tensor:
        """Values (B,) of preds (B, 3, H, W), against target (B, 3, H, W) where the metric takes one, in [0, 1].

        Raises:
            UserError: the metric does not measure a single image, or an image holds NaN.
        """
        given = [preds] if target is None or not self.needs_reference else [preds, target]
        images = [to_pixels(each) / 255 for each in given]
        with self._measuring:
            return torch.stack([self._measure(*(each[n : n + 1] for each in images)) for n in range(len(preds))])

    def _measure(self, *pictures: Tensor) -> Tensor:
        """The metric's value of one image, (1, 3, H, W) each, without the images of other processes."""
        try:
            return for_float64(torch.as_tensor(self.metric(*pictures))).reshape(()).to(torch.float64)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{type(self.metric).__name__} does not give an image one number: {reason}") from error
        finally:
            self.metric.reset()

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the images of preds (B, 3, H, W) and target (B, 3, H, W), both RGB in [0, 1]."""
        self._add(self.score(preds, target))


def metric_of(metric: Metric) -> ImageMetric:
    """Return an `ImageMetric` unchanged; wrap any other metric of torchmetrics in `PlainMetric`."""
    return metric if isinstance(metric, ImageMetric) else PlainMetric(metric)


def usable(metrics: Mapping[str, Metric], no_folders: str = "") -> tuple[dict[str, ImageMetric], dict[str, str]]:
    """Load the metrics' networks; returns the metrics that can run, and name -> reason of the metrics that cannot.

    Args:
        metrics: by their names.
        no_folders: why metrics that compare whole folders cannot run here; "" where they can.

    Raises:
        UserError: one of them is no metric of torchmetrics, or does not say which values are the good ones.
    """
    ready: dict[str, ImageMetric] = {}
    missing: dict[str, str] = {}
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise UserError(f"metric.{name} is a {type(metric).__name__}; derive its class from torchmetrics.Metric.")
    for name, metric in ((name, metric_of(metric)) for name, metric in metrics.items()):
        try:
            if no_folders and isinstance(metric, FolderMetric):
                raise MetricUnavailableError(no_folders)
            metric.require()
            ready[name] = metric
        except MetricUnavailableError as error:
            missing[name] = str(error)
    return ready, missing


class FolderMetric(ImageMetric):
    """Compares whole folders of pictures: one number for a set, none for an image."""

    def update(self) -> None:
        """Refuse: there is nothing to add up; `score_folders` is the way."""
        raise NotImplementedError(f"{type(self).__name__} compares folders; call score_folders.")

    def score_folders(self, preds: Path, target: Path) -> float:
        """Value of the pictures in one folder against those in another."""
        raise NotImplementedError


def for_float64(images: Tensor) -> Tensor:
    """Move a tensor to the CPU if its device knows no float64."""
    return images.cpu() if images.device.type in WITHOUT_FLOAT64 else images


def to_pixels(images: Tensor) -> Tensor:
    """The integers 0..255 that an 8-bit file of these images (B, 3, H, W) in [0, 1] would hold, as float32.

    Numbers of the literature are measured on saved files, so a tensor is measured as if it had been saved.

    Raises:
        UserError: a pixel is NaN or infinite.
    """
    if not torch.isfinite(images).all():
        raise UserError("An image to be measured holds NaN or infinite pixels; look where it was made.")
    return images.float().mul(255).round().clamp(0, 255)


def check_pair(preds: Tensor, target: Tensor, smallest: int = 1) -> None:
    """Refuse images of two sizes, as measuring never crops or resizes, and images that are too small to be measured.

    Raises:
        UserError: the shapes differ or are not (B, 3, H, W), or a side is shorter than `smallest` pixels.
    """
    if preds.ndim != 4 or preds.shape[1] != 3 or preds.shape != target.shape:
        raise UserError(
            f"Measured images must both be (B, 3, H, W), got {tuple(preds.shape)} and {tuple(target.shape)}; "
            "resize or crop them to one size first."
        )
    if min(preds.shape[-2:]) < smallest:
        size = tuple(preds.shape[-2:])
        raise UserError(f"This metric needs sides of at least {smallest} pixels, got {size}; leave it out.")

"""LPIPS and DISTS of saved pictures."""

import threading
from pathlib import Path

import torch
from torch import Tensor

from sspir.metrics.base import FullReferenceMetric, MetricUnavailableError, check_pair, to_pixels
from sspir.perceptual.networks import LEAST, PerceptualDistance
from sspir.perceptual.weights import MissingWeightsError, load_distance


class PerceptualMetric(FullReferenceMetric):
    """A perceptual distance of a restored picture to the truth, as the published tables have it.

    Args:
        name: "lpips" (AlexNet, version 0.1), "lpips_vgg" or "dists".
        path: of the weights of its features; None looks into the caches.
    """

    higher_is_better = False
    is_differentiable = True

    def __init__(self, name: str, path: str | Path | None = None) -> None:
        super().__init__()
        self.name, self.path = name, path
        self._network: PerceptualDistance | None = None  # loaded where it is used; no part of a checkpoint
        self._truths: dict[int, tuple[Tensor, list[Tensor]]] = {}  # of each thread the last target, which many have

    def require(self) -> None:
        """Load the network.

        Raises:
            MetricUnavailableError: its weights are not here; the sentence names the command that gets them.
        """
        try:
            self._network = self._network or load_distance(self.name, self.path)
        except MissingWeightsError as error:
            raise MetricUnavailableError(str(error)) from error

    def score(self, preds: Tensor, target: Tensor) -> Tensor:
        """Distances (B,), lower is better."""
        check_pair(preds, target)
        self.require()
        assert self._network is not None
        network = self._network.to(preds.device)
        saved = [to_pixels(images) / 255 for images in (preds, target)]
        with torch.no_grad():  # one by one: features take memory
            return torch.cat([self._distance(network, a[None], b[None]) for a, b in zip(*saved, strict=True)])

    def reset(self) -> None:
        """Begin anew, and let go of the last targets' features."""
        super().reset()
        self._truths.clear()

    def _distance(self, network: PerceptualDistance, picture: Tensor, truth: Tensor) -> Tensor:
        if min(truth.shape[-2:]) < LEAST:
            return network(picture, truth)  # says so
        thread = threading.get_ident()  # `sspir compare` measures several images at a time
        if thread not in self._truths or not _same(self._truths[thread][0], truth):
            self._truths.pop(thread, None)  # before the next takes memory
            self._truths[thread] = truth, network.maps(truth)
        return network.between(network.maps(picture), self._truths[thread][1])


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other)

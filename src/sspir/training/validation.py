"""Validation: restore the images of several sets, measure them, and count the failures."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from sspir.errors import UserError
from sspir.metrics.base import ImageMetric
from sspir.models.latent import upscale
from sspir.sampling.output import REPAIRED, BrokenError, RestorationOutput
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.precision import plain
from sspir.seeding import sample_seed
from sspir.training.history import ROWS
from sspir.training.strategy import gathered

log = logging.getLogger(__name__)


class Validation:
    """Measures restored images, bicubic upscaling and the Processor's own images by every metric.

    Processes share the images; each goes through the same sets in the same order, and gets the numbers of all images.
    It is no part of the network, whose buffers DDP has processes share at every step: a metric loads a network of its
    own once it measures, which a process without an image of its own never does.

    Args:
        metrics: by name.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        # No groups: torchmetrics would take metrics that agree on the first image for one
        self.rows = {
            row: MetricCollection(dict(metrics), prefix=f"{row}/", compute_groups=False).clone() for row in ROWS
        }
        self.measured: Counter[str] = Counter()  # row -> batches, of the current set
        self.troubles: Counter[str] = Counter()  # "repaired" and "failed" -> images
        self.of_sets: dict[str, dict[str, Tensor]] = {}  # name of a set -> ROW/METRIC -> number, once it is through
        self.counts = True
        self.current = ""  # the set that is being measured

    def names(self, sets: Sequence[str]) -> dict[str, Metric]:
        """Logged name, without its row, -> metric. With several sets METRIC is the mean, SET/METRIC that of one set.

        Raises:
            UserError: the name of a set has a slash.
        """
        if wrong := [name for name in sets if "/" in name]:
            raise UserError(
                f"The validation set {wrong[0]} has a slash in its name, which parts logged names; rename it."
            )
        prefixes = ["", *(f"{name}/" for name in sets if len(sets) > 1)]
        metrics = self.rows["val"].items(keep_base=True)
        return {f"{prefix}{name}": metric for prefix in prefixes for name, metric in metrics}

    def good_end(self, monitor: str, sets: Sequence[str]) -> str:
        """Whether the highest or the lowest value of a metric is its best, "max" or "min".

        Args:
            monitor: METRIC or SET/METRIC.
            sets: of the validation.

        Raises:
            UserError: there is no such metric, or its best value is neither the highest nor the lowest.
        """
        known = self.names(sets)
        if monitor not in known:
            choices = f"choose one of {', '.join(known)}" if known else "no metric can be measured: get its weights"
            instead = "leave out val/" if monitor.removeprefix("val/") in known else f"{choices}, or add it to metric"
            raise UserError(f"monitor={monitor} is not validated; {instead}.")
        if known[monitor].higher_is_better is None:
            raise UserError(f"monitor={monitor} has an ideal in the middle; choose a metric with a direction.")
        return "max" if known[monitor].higher_is_better else "min"

    @torch.no_grad()
    def require_measurable(self, data: Any) -> None:
        """Measure the first photo of every set once, as its own restoration: what fails would fail hours later.

        Args:
            data: a `RestorationDataModule`.

        Raises:
            UserError: a metric does not take these images.
        """
        with torch.random.fork_rng(devices=[]):  # networks that are loaded draw weights first
            for self.current, photos in data.validation.items():
                sample = photos[0]
                hq = sample["hq"][None, :, :512, :512]  # a part of whole photos, as every start waits for it
                hq = hq if "lq" in sample else data.degrade_validation.degradation.cut(hq)
                self.update({"val": hq}, hq)
        self.rows["val"].reset()
        self.measured.clear()
        self.current = ""

    def enter(self, name: str, counts: bool = True, device: torch.device | str = "cpu") -> None:
        """Begin a batch of a set; the sets come one after the other.

        Args:
            name: of the set.
            counts: whether the batch is measured and counted here; another process does it otherwise.
            device: of the images.

        Raises:
            UserError: another process measures different metrics, so that each would wait for ever.
        """
        self.counts = counts
        if not self.of_sets:
            for metrics in self.rows.values():
                metrics.to(device).eval()
            names = [set(found) for found in gathered(list(self.rows["val"].keys(keep_base=True)))]
            if lacking := set.union(*names) - set.intersection(*names):
                raise UserError(
                    f"Not every process can measure {', '.join(sorted(lacking))}; get the weights on every machine "
                    f"(sspir weights get all), or leave it out by ~metric.NAME."
                )
        if name != self.current:
            self._close()
            self.current, self.of_sets[name] = name, {}

    def restore(
        self,
        pipeline: RestorationPipeline,
        lq: Tensor,
        captions: Sequence[str],
        size: tuple[int, int],
        ids: Sequence[str],
    ) -> RestorationOutput:
        """Restore a batch; an image that is broken in full precision too is returned as it is, logged and counted.

        Args:
            pipeline: as users get it.
            lq: (B, 3, h, w) in [0, 1].
            captions: B.
            size: (H, W) of the result.
            ids: B names, which decide the noise.
        """
        pipeline.replays = None  # few photos have one shape, and the memory is the training's
        try:
            restored = pipeline.restore(lq, captions, size, [sample_seed(0, 0, name) for name in ids])
        except BrokenError as error:
            if len(ids) > 1:
                parts = [self.restore(pipeline, lq[[n]], [captions[n]], size, [ids[n]]) for n in range(len(ids))]
                return RestorationOutput.joined(parts, range(len(ids)))
            log.warning("Validation image %s/%s failed: %s", self.current, ids[0], error)
            self.troubles["failed"] += int(self.counts)
            return error.restored
        if REPAIRED in restored.warnings:
            log.warning("Validation image %s: %s.", ", ".join(f"{self.current}/{name}" for name in ids), REPAIRED)
            self.troubles["repaired"] += restored.warnings.count(REPAIRED) * int(self.counts)
        return restored

    def measure(self, restored: RestorationOutput, bicubic: Tensor, hq: Tensor) -> None:
        """Measure a restored batch beside bicubic upscaling and the Processor's own images, in full precision.

        Args:
            restored: of the batch.
            bicubic: (B, 3, H, W) in [0, 1].
            hq: (B, 3, H, W) in [0, 1], the truth.
        """
        rows = {"val": restored.images, "bicubic": bicubic}
        with plain(hq.device):
            if restored.structure:
                rows["structure"] = upscale(restored.structure[0], (hq.shape[-2], hq.shape[-1]))
            self.update(rows, hq)

    def update(self, images: Mapping[str, Tensor], hq: Tensor) -> None:
        """Measure a batch; an image with NaN in one row is left out of all rows, so that rows stay comparable.

        Args:
            images: row -> (B, 3, H, W) in [0, 1].
            hq: (B, 3, H, W) in [0, 1], the truth.

        Raises:
            UserError: a metric does not take these images, which may be too small.
        """
        if not self.counts:
            return
        finite = torch.stack([row.flatten(1).isfinite().all(dim=1) for row in images.values()]).all(dim=0)
        for row, shown in images.items() if finite.any() else ():
            for name, metric in self.rows[row].items(keep_base=True):
                try:
                    metric.update(shown[finite], hq[finite])
                except UserError as error:
                    what = f"The validation set {self.current} cannot be measured by {name}"
                    raise UserError(f"{what}, which ~metric.{name} leaves out: {error}") from error
            self.measured[row] += 1

    def values(self, image: Tensor, hq: Tensor) -> dict[str, float]:
        """Metric -> value of one restored image, of metrics that give a value per image; none where it holds NaN.

        Args:
            image: (1, 3, H, W) in [0, 1].
            hq: (1, 3, H, W) in [0, 1], the truth.
        """
        metrics = self.rows["val"].items(keep_base=True) if image.isfinite().all() else ()
        return {
            name: metric.score(*(image, hq)[: 1 + metric.needs_reference]).item()
            for name, metric in metrics
            if isinstance(metric, ImageMetric)
        }

    def finish(self) -> dict[str, Tensor]:
        """Logged name -> number of all sets; the next validation begins anew.

        ROW/METRIC is the mean over the images of a set, not the mean of batch means, and NaN where none was whole. With
        several sets that is ROW/SET/METRIC, and ROW/METRIC their mean.
        """
        self._close()
        of_sets = list(self.of_sets.values())
        names = dict.fromkeys(name for numbers in of_sets for name in numbers)
        found = {name: torch.stack([numbers[name] for numbers in of_sets if name in numbers]).mean() for name in names}
        for place, numbers in self.of_sets.items() if len(of_sets) > 1 else ():
            found |= {name.replace("/", f"/{place}/", 1): number for name, number in numbers.items()}
        troubles = _of_all_processes(self.troubles)
        found |= {f"val/{name}": torch.tensor(float(count)) for name, count in troubles.items()}
        self.troubles = Counter(dict.fromkeys(troubles, 0))  # logged again, as Lightning keeps the last value
        self.current, self.of_sets = "", {}
        return found

    def _close(self) -> None:
        if not self.current:
            return
        measured = _of_all_processes(self.measured)
        for row, metrics in self.rows.items():
            if row == "val" or measured[row]:
                self.of_sets[self.current] |= metrics.compute()
            metrics.reset()
        self.measured.clear()


def _of_all_processes(counts: Counter[str]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in gathered(counts):
        total.update(part)
    return total

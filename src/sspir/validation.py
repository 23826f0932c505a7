"""What a validation measures, and what went wrong in it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from sspir.degradation import sample_seed
from sspir.pipeline import RestorationPipeline, Restored
from sspir.sampling.restoration import BrokenError

log = logging.getLogger(__name__)

ROWS = ("val", "bicubic", "structure")


class Validation(nn.Module):
    """Restored images beside bicubic upscaling and the Processor's own, each measured by every metric.

    Args:
        metrics: by name.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        # No groups: torchmetrics would take metrics that agree on the first image for one
        self.rows = {
            row: MetricCollection(dict(metrics), prefix=f"{row}/", compute_groups=False).clone() for row in ROWS
        }
        self._rows = nn.ModuleList(self.rows.values())  # moves with the module
        self.troubles: Counter[str] = Counter()  # "repaired" and "failed" -> images

    def restore(
        self,
        pipeline: RestorationPipeline,
        lq: Tensor,
        captions: Sequence[str],
        size: tuple[int, int],
        ids: Sequence[str],
    ) -> Restored:
        """Restore a batch; what is broken in full precision too comes back as it is, named and counted.

        Args:
            pipeline: as users get it.
            lq: (B, 3, h, w) in [0, 1].
            captions: B.
            size: (H, W) of the result.
            ids: B names, which decide the noise.
        """
        try:
            restored = pipeline.restore(lq, captions, size, [sample_seed(0, 0, name) for name in ids])
        except BrokenError as error:
            if len(ids) > 1:
                parts = [self.restore(pipeline, lq[[n]], [captions[n]], size, [ids[n]]) for n in range(len(ids))]
                return Restored.joined(parts, range(len(ids)))
            log.warning("Validation of %s failed: %s", ids[0], error)
            self.troubles["failed"] += 1
            return error.restored
        if restored.warnings:
            log.warning("Validation of %s: %s.", ", ".join(ids), "; ".join(restored.warnings))
            self.troubles["repaired"] += len(ids)
        return restored

    def update(self, images: Mapping[str, Tensor], hq: Tensor) -> None:
        """Measure a batch; what holds NaN is measured in no row, so that rows stay comparable.

        Args:
            images: row -> (B, 3, H, W) in [0, 1].
            hq: (B, 3, H, W) in [0, 1], the truth.
        """
        finite = torch.stack([row.flatten(1).isfinite().all(dim=1) for row in images.values()]).all(dim=0)
        for row, shown in images.items() if finite.any() else ():
            self.rows[row].update(shown[finite], hq[finite])

    def finish(self) -> dict[str, Tensor]:
        """Means over all images, not the mean of batch means, by their logged names; begins anew.

        A validation without a whole image has NaN for its numbers.
        """
        numbers: dict[str, Tensor] = {}
        for row, metrics in self.rows.items():
            if row == "val" or any(metric.update_called for metric in metrics.values()):
                numbers |= metrics.compute()
            metrics.reset()
        numbers |= {f"val/{name}": torch.tensor(float(count)) for name, count in self.troubles.items()}
        self.troubles = Counter(dict.fromkeys(self.troubles, 0))  # logged again, as Lightning keeps the last value
        return numbers

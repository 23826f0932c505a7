"""How photos are restored."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from sspir.images.room import Size, recorded
from sspir.restoring.peer import Tiles
from sspir.sampling.sampler import Sampler


@dataclass(frozen=True)
class Request:
    """How photos are restored; two equal requests give equal results.

    Args:
        settings: of the sampler, or of a peer.
        scale: upscaling, or the rule for it.
        seed: of the noise of every photo, so that a result depends on neither order nor batch.
        samples: restorations of each photo, under the seeds that follow.
        compare: write what was given and what came out side by side, too.
        dtype: of the denoiser.
        weights: what the pipeline was made of, for the record.
        captioner_input: what of a photo a captioner describes, see `sspir.sampling.look.look`.
        drop_gps: leave the place out of the results, where a photo names it.
    """

    settings: Sampler | Tiles
    scale: float | Size
    seed: int = 0
    samples: int = 1
    compare: bool = False
    dtype: str = "float32"
    weights: str = ""
    captioner_input: str = "lq"
    drop_gps: bool = False

    @cached_property
    def record(self) -> dict[str, Any]:
        """The request as JSON holds it."""
        return json.loads(json.dumps({**asdict(self), "scale": recorded(self.scale)}))

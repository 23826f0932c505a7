"""Captions for photos that came without, before the first is restored: the captioner's memory is free by then."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from sspir.errors import UserError
from sspir.images.io import MAX_PIXELS, read_image
from sspir.pipeline import RestorationPipeline
from sspir.priors.captioner import CaptionerUnavailableError
from sspir.restoring.jobs import Job
from sspir.sampling.look import look

_TOGETHER = 8  # photos in memory, for captioners that answer several at a time


class Describer:
    """Asks the pipeline's captioner about photos.

    Args:
        pipeline: with the captioner, and what a first restoration needs.
        scale: upscaling.
        shown: what of a photo the captioner describes, see `sspir.sampling.look.look`.
        max_pixels: larger photos are refused.
    """

    def __init__(
        self, pipeline: RestorationPipeline, scale: float, shown: str = "lq", max_pixels: int = MAX_PIXELS
    ) -> None:
        self.pipeline = pipeline
        self.scale = scale
        self.shown = shown
        self.max_pixels = max_pixels
        self._told: dict[str, tuple[str, list[str]]] = {}

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Ask about the jobs' photos, each once, and free the captioner; yields each job when it is settled."""
        new = [job for job in jobs if job.name not in self._told]
        for start in range(0, len(new), _TOGETHER):
            together = new[start : start + _TOGETHER]
            looks: dict[str, Tensor] = {}
            for job in together if self.pipeline.captioner.sees else ():
                try:
                    looks[job.name] = self._look(job)
                except (UserError, OSError, MemoryError) as error:
                    self._told[job.name] = _silence(error)
            self._told |= self._ask(looks)
            yield from together
        if new:
            self.pipeline.captioner.close()

    def of(self, job: Job) -> tuple[str, list[str]]:
        """The caption of a job, and warnings for its record."""
        return self._told.get(job.name, ("", []))

    def _look(self, job: Job) -> Tensor:
        lq = read_image(job.source, self.max_pixels).tensor()[None]
        return look(self.pipeline, lq, self.pipeline.size_of(lq, self.scale), self.shown)[0]

    def _ask(self, looks: dict[str, Tensor]) -> dict[str, tuple[str, list[str]]]:
        """Captions of some photos; what fails together is asked alone, and one that fails is restored without words."""
        try:
            captions = self.pipeline.captioner(list(looks.values()), [""] * len(looks)) if looks else []
            return {name: (caption, []) for name, caption in zip(looks, captions, strict=True)}
        except UserError as error:
            if len(looks) == 1 or isinstance(error, CaptionerUnavailableError):
                return dict.fromkeys(looks, _silence(error))
            return {name: told for each in looks for name, told in self._ask({each: looks[each]}).items()}


def _silence(error: Exception) -> tuple[str, list[str]]:
    return "", [f"restored without a caption: {error}"]

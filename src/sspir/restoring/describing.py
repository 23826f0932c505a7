"""Caption photos that came without a caption, before the first is restored, so that the captioner's memory is free."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sspir.captioners.base import CaptionerUnavailableError, caption_each, provenance_of
from sspir.captioners.tables import find_captions, words_in
from sspir.errors import UserError
from sspir.files import Journal
from sspir.images.io import MAX_PIXELS, read_image
from sspir.images.room import Size, recorded, require_room
from sspir.restoring.jobs import Job, with_place
from sspir.restoring.peer import PeerPipeline
from sspir.sampling.look import look
from sspir.sampling.pipeline import RestorationPipeline

CaptionOf = Callable[[Job], str | None]
_TOGETHER = 8  # photos in memory, for captioners that answer several at a time


def given_captions(caption: str | None, source: str | None, names: Sequence[str] = ()) -> CaptionOf:
    """What people say of their photos, "" for no words; None where the captioner is to be asked.

    Args:
        caption: of every photo.
        source: where there is no such caption, a folder of .txt files, or as for `find_captions`.
        names: see `find_captions`.

    Raises:
        UserError: there is no such source.
    """
    if caption is not None:
        return lambda job: caption
    if source is None:
        return lambda job: None
    folder = Path(source)
    if folder.is_dir():
        return lambda job: words_in(folder / Path(job.name).with_suffix(".txt"))
    if source != "beside" and not folder.is_file():
        raise UserError(
            f"The captions {source} are missing; give a .jsonl or .parquet file, a folder of .txt or beside."
        )
    find = find_captions(source, names)
    return lambda job: find(job.source, job.name)


class Describer:
    """Has the pipeline's captioner caption photos, and keeps the captions in the journal: a stop loses none.

    Args:
        pipeline: with the captioner, and what a first restoration needs.
        journal: of the output folder.
        scale: upscaling, or the rule for it.
        captioner_input: what of a photo the captioner describes, see `sspir.sampling.look.look`.
        weights: what the pipeline was made of, for the record.
        max_pixels: larger photos are refused.

    Attributes:
        down: names of the jobs for which the captioner could not be asked.
    """

    def __init__(
        self,
        pipeline: RestorationPipeline | PeerPipeline,
        journal: Journal,
        scale: float | Size,
        captioner_input: str = "lq",
        weights: str = "",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.pipeline = pipeline
        self.journal = journal
        self.scale = scale
        self.captioner_input = captioner_input
        self.weights = weights
        self.max_pixels = max_pixels
        self._answers: dict[str, tuple[str, list[str]]] = {}  # name of a job -> caption and warnings
        self.down: set[str] = set()

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Caption the jobs' photos, each once, then free the captioner; yields each job when it is done."""
        new = [job for job in jobs if job.name not in self._answers]
        unavailable: CaptionerUnavailableError | None = None  # which is not waited for again
        for start in range(0, len(new), _TOGETHER):
            together = new[start : start + _TOGETHER]
            looks: dict[str, Tensor] = {}
            lines: dict[str, dict[str, Any]] = {}
            for job in together if self.pipeline.captioner.sees else ():
                try:
                    lines[job.name] = line = self._line(job)
                    before = with_place(self.journal.captions.get(job.output, {}))
                    if line.items() <= before.items():
                        self._answers[job.name] = before["caption"], []
                    elif unavailable is None:
                        looks[job.name] = self._look(job)
                except (UserError, OSError, MemoryError) as error:
                    self._answers[job.name] = _no_caption(error)
            try:
                for name, answer in caption_each(self.pipeline.captioner, looks):
                    if isinstance(answer, str):
                        self._answers[name] = answer, []
                        self.journal.append({**lines[name], "caption": answer})
                    else:
                        self._answers[name] = _no_caption(answer)
            except CaptionerUnavailableError as error:
                unavailable = error
            if unavailable:
                down = lines.keys() - self._answers.keys()
                self._answers |= dict.fromkeys(down, _no_caption(unavailable))
                self.down |= down
            yield from together
        if new:
            self.pipeline.captioner.close()

    def of(self, job: Job) -> tuple[str, list[str]]:
        """The caption of a job, and warnings for its record."""
        return self._answers.get(job.name, ("", []))

    @property
    def provenance(self) -> dict[str, str]:
        """What decides the captioner's captions, for records."""
        return provenance_of(self.pipeline.captioner)

    def _line(self, job: Job) -> dict[str, Any]:
        """The journal's line for a caption, without the caption: while the line is the same, the caption is good."""
        restored_by = self.weights if self.captioner_input != "lq" else None
        seen = {"shown": self.captioner_input, "shown_by": restored_by, "scale": recorded(self.scale)}
        captioner = {"captioner": self.provenance, **seen}
        return {**job.content(), **captioner, "status": "described", "output": job.output}

    def _look(self, job: Job) -> Tensor:
        """The image (3, H, W) of a job's photo that the captioner describes."""
        require_room(job.source, self.scale, self.pipeline.max_output_pixels)
        lq = read_image(job.source, self.max_pixels).tensor()[None]
        return look(self.pipeline, lq, self.pipeline.size_of(lq, self.scale), self.captioner_input)[0]


def _no_caption(error: Exception) -> tuple[str, list[str]]:
    """The empty caption, and the warning that says why it is empty."""
    return "", [f"restored without a caption: {error}"]

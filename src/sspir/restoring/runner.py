"""A folder of photos restored one by one: nothing is done twice, and no photo's trouble is another's."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.files import Journal, is_full
from sspir.images.exif import without_gps
from sspir.images.io import MAX_PIXELS, Picture, read_image, write_image
from sspir.images.panel import panel
from sspir.images.room import require_room
from sspir.memory import is_memory, peak_bytes, released, reset_peak, unheld_bytes
from sspir.models.latent import upscale
from sspir.restoring.checks import not_ours
from sspir.restoring.describing import Describer
from sspir.restoring.jobs import Job, side_files, with_place
from sspir.restoring.peer import PeerPipeline, Tiles
from sspir.restoring.request import Request as Request
from sspir.restoring.samples import write_samples
from sspir.sampling.loop import Step
from sspir.sampling.output import RestorationOutput
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler
from sspir.seeding import torch_seed

log = logging.getLogger(__name__)
OnProgress = Callable[[float, Step], object]
_GAIN_BY_BATCHES = {"cuda"}
_MOST, _SHARE = 16, 0.7  # photos together, and of the free memory


@dataclass
class Opened:
    """A photo in memory.

    Attributes:
        job: where it came from and where it goes.
        picture: what the file held.
        lq: (3, h, w) in [0, 1].
        content: of the job, as it was before the file was read.
        given: caption from the user; None asks the captioner.
        warnings: sentences for the record.
    """

    job: Job
    picture: Picture
    lq: Tensor
    content: dict[str, Any]
    given: str | None
    warnings: list[str] = field(default_factory=list)


class JobRunner:
    """Restores jobs with a pipeline and writes each result and its line in the journal.

    Args:
        pipeline: or a peer; where it shall run, in the type it shall run in.
        request: the settings.
        journal: of the output folder.
        caption_of: the caption of a job, None to ask the pipeline's captioner.
        batch: photos of one size per run of the sampler; None: on a GPU as many as there is memory for, by what the
            first photo of a size took, else one.
        max_pixels: larger photos are refused.
        on_progress: called after each step with the share of a photo that was done since the last call, and the step.
        overwrite: whether files that the journal does not know may be replaced.
    """

    def __init__(
        self,
        pipeline: RestorationPipeline | PeerPipeline,
        request: Request,
        journal: Journal,
        caption_of: Callable[[Job], str | None] = lambda job: None,
        batch: int | None = 1,
        max_pixels: int = MAX_PIXELS,
        on_progress: OnProgress = lambda share, step: None,
        overwrite: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self.request = request
        self.journal = journal
        self.caption_of = caption_of
        self.batch = batch
        self._room: dict[tuple[int, int], int] = {}  # photos of a size that there is memory for
        self.max_pixels = max_pixels
        self.on_progress = on_progress
        self.overwrite = overwrite
        self.describer = Describer(
            pipeline, journal, request.scale, request.captioner_input, request.weights, max_pixels
        )

    def is_done(self, job: Job) -> bool:
        """Whether the photo was restored with the same settings before, by the journal, and the result is there."""
        entry = with_place(self.journal.entries.get(job.output, {}))
        try:
            same = all(entry.get(key) == value for key, value in self._identity(job, job.content()).items())
        except OSError:  # the photo is gone; restoring it says so
            return False
        return same and entry.get("status") == "done" and job.target.is_file()

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Restore the jobs; a photo that fails is noted in the journal and does not stop the others.

        Returns:
            Name and sentence of each photo that failed.

        Raises:
            ImageError, OSError: the disk is full.
        """
        for _ in self.describe(jobs):
            pass
        failed: dict[str, str] = {}
        for group in self._groups(jobs, failed):
            for opened, error in self._attempt(group):
                self._fail(opened.job, error, failed)
        return failed

    def describe(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Caption every photo that came without a caption; yields each job when it is done. `run` does the rest."""
        self.journal.begin()
        return self.describer([job for job in jobs if self.caption_of(job) is None])

    def _groups(self, jobs: Sequence[Job], failed: dict[str, str]) -> Iterator[list[Opened]]:
        """Photos of one size, as many as may go together, with few waiting for others of their size."""
        waiting: dict[tuple[int, ...], list[Opened]] = {}
        for job in jobs:
            try:
                opened = self._open(job)
            except (UserError, OSError, MemoryError) as error:
                self._fail(job, error, failed)
                continue
            group = waiting.setdefault(tuple(opened.lq.shape), [])
            group.append(opened)
            if len(group) >= (self.batch or self._room.get(self._size(opened), 1)):
                yield waiting.pop(tuple(opened.lq.shape))
            elif sum(map(len, waiting.values())) >= 2 * (self.batch or _MOST):
                yield waiting.pop(next(iter(waiting)))
        yield from waiting.values()

    def _size(self, opened: Opened) -> tuple[int, int]:
        return self.pipeline.size_of(opened.lq, self.request.scale)

    def _open(self, job: Job) -> Opened:
        """Read a job's photo, unless its result would be too large or replace a file of somebody's."""
        self.require_place(job)
        content: dict[str, Any] = {}
        with suppress(OSError):  # reading it says what is wrong
            content = job.content()
        picture = read_image(job.source, self.max_pixels)
        if self.request.drop_gps:
            picture = replace(picture, exif=without_gps(picture.exif))
        return Opened(job, picture, picture.tensor(), content, self.caption_of(job), list(picture.warnings))

    def require_place(self, job: Job) -> None:
        """Refuse a job whose result would be too large, or where a file lies that this command has not written.

        Raises:
            UserError: see above.
        """
        require_room(job.source, self.request.scale, self.pipeline.max_output_pixels, job.target.suffix)
        sentence = not_ours(job, self.journal, self.request.compare, self.request.samples)
        if sentence and not self.overwrite:
            raise UserError(sentence)

    def _attempt(self, group: list[Opened]) -> Iterator[tuple[Opened, Exception]]:
        """Restore a group, and if that fails each photo alone; yields the photos that failed, with their errors."""
        error = self._error_of(group, self.request.settings)
        if error is not None and len(group) > 1:
            self._room[self._size(group[0])] = len(group) // 2
            for opened in group:
                yield from self._attempt([opened])
            return
        if error is not None and is_memory(error):
            error = self._with_less_memory(group[0])
        if error is not None:
            yield group[0], error

    def _error_of(self, group: list[Opened], settings: Sampler | Tiles) -> Exception | None:
        """Restore a group; returns the error if that failed, when none of its tensors is in memory any more."""
        try:
            self._restore(group, settings)
        except Exception as error:  # of any library: one photo's trouble, told in its line of the journal
            if is_full(error) or is_full(error.__cause__):  # which is every other photo's trouble, too
                raise
            log.debug("%s failed", group[0].job.source, exc_info=True)
            failure = released(error)
        else:
            return None
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        return failure

    def _with_less_memory(self, opened: Opened) -> Exception | None:
        """Restore a photo once more, in the smallest pieces; returns the error if that failed, too."""
        settings = self.request.settings.low_memory()
        opened.warnings.append(f"there was too little memory; restored in regions of {settings.region} pixels")
        error = self._error_of([opened], settings)
        if error is None or not is_memory(error):
            return error
        height, width = opened.lq.shape[-2:]
        reason = f"{width} x {height} pixels need more memory than there is; lower --scale or use another machine"
        return UserError(f"{opened.job.source}: {reason}.")

    def _restore(self, group: list[Opened], settings: Sampler | Tiles) -> None:
        device = self.pipeline._execution_device
        reset_peak(device)
        held, started = peak_bytes(device), time.monotonic()
        lq = torch.stack([opened.lq for opened in group])
        size = self.pipeline.size_of(lq, self.request.scale)
        captions = [self._caption(opened) for opened in group]
        samples = [self._sample(lq, captions, size, number, settings) for number in range(self.request.samples)]
        if size not in self._room and device.type in _GAIN_BY_BATCHES:
            taken = max(1, (peak_bytes(device) - held) // len(group))
            self._room[size] = max(1, min(_MOST, int(_SHARE * unheld_bytes(device) / taken)))
        for index, opened in enumerate(group):
            images = torch.stack([sample.images[index] for sample in samples])
            warnings = [*opened.warnings, *(text for sample in samples for text in sample.warnings_of(index))]
            warnings += self._write(opened, images)
            self.journal.append(
                {
                    **self._identity(opened.job, opened.content),
                    **opened.job.names(),
                    "status": "done",
                    "size": [size[1], size[0]],
                    "caption": samples[0].captions[index],
                    "seconds": round((time.monotonic() - started) / len(group), 3),
                    "peak_memory_mb": round(peak_bytes(device) / 2**20),
                    "warnings": list(dict.fromkeys(warnings)),
                }
            )

    def _caption(self, opened: Opened) -> str:
        """The caption that was given, or the captioner's."""
        if opened.given is not None:
            return opened.given
        caption, warnings = self.describer.of(opened.job)
        opened.warnings += warnings
        return caption

    def _sample(
        self, lq: Tensor, captions: list[str], size: tuple[int, int], number: int, settings: Any
    ) -> RestorationOutput:
        seeds = [torch_seed(self.request.seed + number)] * len(lq)
        shares = len(lq) / self.request.samples

        def on_step(step: Step) -> None:
            self.on_progress(shares / step.total, step)

        return self.pipeline.restore(lq, captions, size, seeds, settings, on_step)

    def _write(self, opened: Opened, images: Tensor) -> list[str]:
        """Write one photo's results; images (N, 3, H, W) are its samples. Returns sentences about what was lost."""
        job, picture = opened.job, opened.picture
        files = _beside(job, self.request.compare, self.request.samples)
        before = self.journal.made.get(job.output, {})
        made = {*before.get("files", _beside(job, before.get("compare", False), before.get("samples", 1)))}
        for old in made.difference(files):  # it shows another restoration than the one to come
            if self.journal.files.get(old, job.output) == job.output:
                job.target.with_name(Path(old).name).unlink(missing_ok=True)
        self.journal.append({**job.names(), "status": "begun", "files": files})
        if self.request.compare:
            size = (images.shape[-2], images.shape[-1])
            columns = {"given": upscale(opened.lq[None], size)[0], "restored": images[0].cpu()}
            sheet = np.asarray(panel(columns, job.name))
            write_image(side_files(job.target, True, 1)["compare"], Picture(sheet))
        if len(images) > 1:
            write_samples(job.target, picture, images)
        return write_image(job.target, picture.replaced(images[0]))  # last: with it the photo counts as done

    def _identity(self, job: Job, content: dict[str, Any]) -> dict[str, Any]:
        """Photo, caption and settings of a result: while they are the same, the result is good."""
        given = self.caption_of(job)
        asked = given is None and job.name not in self.describer.down  # else it is done anew when it can be
        return {
            **content,
            "given_caption": given,
            "captioner": self.describer.provenance if asked else None,
            **self.request.record,
        }

    def _fail(self, job: Job, error: Exception, failed: dict[str, str]) -> None:
        failed[job.name] = text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.journal.append({**job.names(), "status": "failed", "error": text})


def _beside(job: Job, compare: bool, samples: int) -> list[str]:
    """What is written beside a job's result, by the names that the journal has."""
    return [side.as_posix() for side in side_files(Path(job.output), compare, samples).values()]

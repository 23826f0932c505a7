"""What the page and the HTTP endpoint ask for: captions, an estimate, restored photos."""

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sspir.app.queue import Queue, Ticket
from sspir.errors import UserError
from sspir.files import Journal, write_text
from sspir.images.io import NO_LIMIT, read_image, write_image
from sspir.images.panel import to_picture
from sspir.models.latent import upscale
from sspir.restoring.forecast import Forecast, forecast
from sspir.restoring.jobs import JOURNAL, Job, find_jobs, side_files
from sspir.restoring.peer import PeerPipeline
from sspir.restoring.runner import JobRunner, Request
from sspir.sampling.loop import Step
from sspir.sampling.pipeline import RestorationPipeline

CAPTIONS, RESTORED = "captions.jsonl", "restored"
MOST_SAMPLES = 8
"""Of a photo: others wait meanwhile."""
VIEW = 16_000_000
"""Pixels of a picture for the screen."""
DIM = 0.35
"""Brightness of the picture under its trust map."""


class SettingError(UserError):
    """A setting that is not understood.

    Attributes:
        name: of the setting.
    """

    def __init__(self, sentence: str, name: str) -> None:
        super().__init__(sentence)
        self.name = name


@dataclass(frozen=True)
class Restored:
    """A photo that was restored.

    Attributes:
        name: of the photo.
        path: of the result.
        caption: that steered.
        size: width and height of the result.
        seconds: that it took.
        warnings: sentences about what went differently than asked.
        trust: of several samples, the map of where they differ.
        views: pictures for the screen, see `Restorer.restore`: "given", "restored" and of samples "trust".
    """

    name: str
    path: Path
    caption: str
    size: tuple[int, int]
    seconds: float
    warnings: list[str] = field(default_factory=list)
    trust: Path | None = None
    views: dict[str, Path] = field(default_factory=dict)


class Restorer:
    """Restores photos in folders with one model, through a queue.

    Args:
        pipeline: or a peer, on its device.
        queue: that everything goes through which takes the model.
        request_of: flags of `sspir restore` -> how they have photos restored; raises `UserError`.
        model: flags of `sspir restore` that name the model, for the command that is shown.
        max_pixels: larger photos are refused.
        batch: photos of one size that are restored together; None as of `JobRunner`.
    """

    def __init__(
        self,
        pipeline: RestorationPipeline | PeerPipeline,
        queue: Queue,
        request_of: Callable[[list[str]], Request],
        model: Sequence[str],
        max_pixels: int,
        batch: int | None = 1,
    ) -> None:
        self.pipeline = pipeline
        self.queue = queue
        self.model = list(model)
        self.max_pixels, self.batch = max_pixels, batch
        self._request_of = request_of
        self._rates: dict[str, float] = {}  # settings as text -> seconds per pixel

    def request(self, settings: Mapping[str, str]) -> Request:
        """How photos are restored under settings, the long flags of `sspir restore` without their dashes -> values.

        Raises:
            SettingError: one is not understood.
        """
        try:
            request = self._request_of(flags_of(settings))
        except UserError as error:
            sentence = str(error).partition("; see sspir ")[0]
            named = re.match(r"argument (?:--\S+/)?--([\w-]+):? (.*)", sentence, re.DOTALL)
            if named:
                raise SettingError(f"{named[1]}: {named[2]}.", named[1]) from error
            flag = re.match(r"--([\w-]+)", sentence)
            raise SettingError(sentence, flag[1] if flag else "") from error
        if request.samples > MOST_SAMPLES:
            raise SettingError(f"samples: at most {MOST_SAMPLES} of one photo.", "samples")
        return request

    def command(self, photos: Sequence[str], settings: Mapping[str, str], captions: Mapping[str, str]) -> str:
        """The `sspir restore` command that does the same; captions of several photos are in a file beside it."""
        files = [f"./{photo}" if photo.startswith("-") else photo for photo in photos]
        words = ["sspir", "restore", *files, "--out", RESTORED, *self.model, *flags_of(settings)]
        if len(photos) == 1:
            words += [f"--caption={text}" for text in captions.values()]
        elif captions:
            words += ["--captions", CAPTIONS]
        return shlex.join(words)

    def describe(self, photos: Sequence[Path]) -> Ticket:
        """Queue a job that captions photos; its result is name -> caption."""
        request = self.request({})

        def work(ticket: Ticket) -> dict[str, str]:
            with TemporaryDirectory() as folder:
                jobs, runner = self._runner(_together(photos, Path(folder)), {}, {}, request, Path(folder))
                for _ in runner.describe(jobs):
                    ticket.check()
                return {job.name: runner.describer.of(job)[0] for job in jobs}

        return self.queue.submit(work, counts=False)

    def foresee(self, photos: Sequence[Path], settings: Mapping[str, str]) -> Forecast:
        """Estimate what restoring takes; `settings` as of `request`.

        How fast the model is under settings of a kind is tried once, when nobody else restores; as long as that is not
        known, `rate` and `seconds` are 0.
        """
        request = self.request(settings)
        alike = json.dumps({**request.record, "seed": None, "scale": None})

        def foreseen_at(rate: float | None) -> Forecast:
            with TemporaryDirectory() as folder:
                given = _together(photos, Path(folder))
                jobs, runner = self._runner(given, {}, settings, request, Path(folder))
                foreseen = forecast(runner, jobs, rate)
            return replace(foreseen, refused=[(job, _without_folders(text, given)) for job, text in foreseen.refused])

        if (rate := self._rates.get(alike)) is None and not len(self.queue):
            foreseen: Forecast = self.queue.submit(lambda ticket: foreseen_at(None), counts=False).outcome()
            if foreseen.rate:
                self._rates[alike] = foreseen.rate
            return foreseen
        return foreseen_at(rate or 0.0)

    def restore(
        self,
        photos: Sequence[Path],
        captions: Mapping[str, str],
        settings: Mapping[str, str],
        folder: Path,
        views: bool = False,
    ) -> Ticket:
        """Queue a job that restores photos; its result is a list of `Restored`, and name -> sentence of
        those that failed.

        Args:
            photos: files, of different names.
            captions: name of a photo -> words; where there are none the captioner is asked.
            settings: see `request`.
            folder: for the results.
            views: whether pictures for the screen are made of them, too.
        """
        request, photos = self.request(settings), _together(photos, folder)

        def work(ticket: Ticket) -> tuple[list[Restored], dict[str, str]]:
            jobs, runner = self._runner(photos, captions, settings, request, folder, ticket)
            failed = {name: _without_folders(text, photos) for name, text in runner.run(jobs).items()}
            done = [_restored(job, runner, request) for job in jobs if job.name not in failed]
            lines = [json.dumps({"file_name": each.name, "caption": each.caption}, ensure_ascii=False) for each in done]
            write_text(folder / CAPTIONS, "".join(f"{line}\n" for line in lines))
            places = {photo.name: photo for photo in photos}
            for number, each in enumerate(done) if views else ():
                ticket.check()
                done[number] = replace(each, views=_views(places[each.name], each, folder / "views"))
            return done, failed

        return self.queue.submit(work)

    def _runner(
        self,
        photos: Sequence[Path],
        captions: Mapping[str, str],
        settings: Mapping[str, str],
        request: Request,
        folder: Path,
        ticket: Ticket | None = None,
    ) -> tuple[list[Job], JobRunner]:
        jobs = find_jobs([str(photo) for photo in photos], folder / RESTORED, settings.get("format"))

        def on_progress(share: float, step: Step) -> None:
            if ticket:
                ticket.on_step(share / len(jobs), step)

        return jobs, JobRunner(
            self.pipeline,
            request,
            Journal(folder, JOURNAL),
            lambda job: captions.get(job.name),
            self.batch,
            self.max_pixels,
            on_progress,
        )


def flags_of(settings: Mapping[str, str]) -> list[str]:
    """Settings as flags of `sspir restore`."""
    return [f"--{name}={value}" for name, value in settings.items()]


def _together(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Links to photos in one folder below another: the results of `a.jpg` and `a.png` there have names of their own."""
    place = folder / "given"
    place.mkdir(parents=True)
    for photo in photos:
        (place / photo.name).symlink_to(photo.resolve())
    return [place / photo.name for photo in photos]


def _without_folders(text: str, photos: Sequence[Path]) -> str:
    """A sentence about photos by their names: where they lie is nobody's business."""
    for photo in photos:
        text = text.replace(str(photo), photo.name)
    return text


def _restored(job: Job, runner: JobRunner, request: Request) -> Restored:
    entry = runner.journal.entries[job.output]
    sides = side_files(job.target, False, request.samples)
    width, height = entry["size"]
    return Restored(
        job.name, job.target, entry["caption"], (width, height), entry["seconds"], entry["warnings"], sides.get("trust")
    )


def _views(photo: Path, restored: Restored, folder: Path) -> dict[str, Path]:
    """Write what the page shows of a result, in a size for the screen: "given", "restored", and of samples "trust"."""
    width, height = restored.size
    shrink = min(1.0, math.sqrt(VIEW / (width * height)))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    shown = {
        "given": upscale(read_image(photo).tensor()[None], size)[0],
        "restored": upscale(read_image(restored.path, NO_LIMIT).tensor()[None], size)[0],
    }
    if restored.trust:
        dim = (shown["restored"].mean(dim=0, keepdim=True) * DIM).expand(3, -1, -1)
        shown["trust"] = dim + upscale(read_image(restored.trust, NO_LIMIT).tensor()[None], size)[0] * (1 - DIM)
    places = {name: folder / f"{restored.path.name}.{name}.png" for name in shown}
    for name, view in shown.items():
        write_image(places[name], to_picture(view))
    return places

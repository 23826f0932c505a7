"""`sspir restore`: photos and folders of photos to restored ones."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sspir.commands.restore_flags import parser, refuse_for_peer, size_asked
from sspir.errors import UserError

if TYPE_CHECKING:
    from sspir.files import Journal
    from sspir.images.room import Size
    from sspir.restoring.jobs import Job
    from sspir.restoring.peer import PeerPipeline
    from sspir.restoring.runner import JobRunner, Request
    from sspir.sampling.pipeline import RestorationPipeline
    from sspir.sampling.sampler import Sampler

EXAMPLES = """examples:
  one photo, four times as large, to a file or into a folder:
    sspir restore photo.jpg --out restored.png
    sspir restore photo.jpg --out restored
  a folder and all below it; started again after an interruption it goes on where it was:
    sspir restore photos/ --out restored --weights my-pipeline
  only some, with your own words and the difference beside them:
    sspir restore 'photos/**/*.jpg' --out restored --weights my-pipeline --caption "an old brick house" --compare
  to fit a screen, never more than 4,000 pixels long; first only say what it would do, and how long it takes:
    sspir restore photos/ --out restored --size 3840x2160 --max-side 4000 --dry-run
  closer to what was photographed, less invented:
    sspir restore photos/ --out restored --weights my-pipeline --fidelity 0.7
  where does the model invent? five samples, their mean, and a map of where they differ:
    sspir restore photo.jpg --out restored --weights my-pipeline --samples 5
  with somebody else's network: a peer of `sspir weights get`, or any file that spandrel reads:
    sspir restore photos/ --out restored --weights realesrgan
    sspir restore photos/ --out restored --weights 4x-UltraSharp.pth --scale 2
  the authors' checkpoint, which comes without the frozen networks:
    sspir restore photos/ --out restored --weights checkpoint-100000 --stable-diffusion sd15 --clip clip-vit-l14

restore.jsonl beside the results gets a line per photo: caption, settings, seed, seconds, peak memory, warnings, error;
and before it one for each caption that a model was asked for, so that it is asked once. The same command again restores
only what is missing, has changed, or failed. Exit status: 0 all done, 1 some photos failed (they are named), 2 nothing
could be done, 130 or 143 interrupted.
"""


def run(arguments: list[str]) -> int:
    """Parse the flags and restore. Returns the exit status."""
    options = parser(EXAMPLES).parse_args(arguments)
    if _means_peer(options.weights):
        refuse_for_peer(options)  # before anything is loaded
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _restore(options)
    except _Stopped as stopped:
        sys.stderr.write("\nStopped; the same command goes on with what is left.\n")
        return 128 + stopped.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stopped(BaseException):
    """A signal asked to stop; no `except Exception` on the way holds it up."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up is not interrupted
    raise _Stopped(number)


def _restore(options: argparse.Namespace) -> int:
    from sspir.files import Journal
    from sspir.restoring.jobs import JOURNAL, find_jobs, is_file

    journal = Journal(options.out.parent if is_file(options.out) else options.out, JOURNAL)
    jobs = find_jobs(options.inputs, options.out, options.format, journal.photos())
    _check_out(options, jobs, journal)
    caption_of = _captions(options, jobs)

    from tqdm import tqdm

    from sspir.restoring.runner import JobRunner

    pipeline = load(options)
    request = request_of(options, pipeline)
    with tqdm(total=0, unit="photo", disable=None, bar_format=_BAR) as bar:
        restorer = JobRunner(
            pipeline, request, journal, caption_of, options.batch, options.max_pixels * 1_000_000,
            lambda share, step: bar.update(share),
        )  # fmt: skip
        left = [job for job in jobs if not _skipped(job, restorer.is_done, options)]
        _require_room(left, request.scale, pipeline.max_output_pixels)
        if options.dry_run:
            return _foretell(restorer, left, len(jobs))
        for _ in tqdm(restorer.describe(left), desc="captions", unit="photo", disable=None, leave=False):
            pass
        bar.reset(total=len(left))
        failed = restorer.run(left)
    for name, sentence in failed.items():
        sys.stderr.write(f"failed: {name}: {sentence}\n")
    done, skipped = len(left) - len(failed), len(jobs) - len(left)
    sys.stdout.write(f"{done} restored, {skipped} were done before, {len(failed)} failed; see {options.out}.\n")
    return 0 if not failed else 1 if done or skipped else 2


def _means_peer(weights: str | None) -> bool:
    if weights is None or Path(weights).is_dir():  # known before anything is imported
        return False
    from sspir.peers import means_peer

    return means_peer(weights)


def load(options: argparse.Namespace) -> "RestorationPipeline | PeerPipeline":
    """The model that the flags name, on their device: a pipeline, or somebody else's network in its place."""
    if not _means_peer(options.weights):
        return _pipeline(options)

    from sspir.memory import choose_device
    from sspir.peers import find_peer
    from sspir.restoring.peer import PeerPipeline

    most = options.max_output_pixels * 1e6 or float("inf")
    return PeerPipeline(find_peer(options.weights), choose_device(options.device), most)


def request_of(options: argparse.Namespace, pipeline: "RestorationPipeline | PeerPipeline") -> "Request":
    """How the flags have photos restored.

    Raises:
        UserError: a setting means nothing to the model.
    """
    from sspir.restoring.peer import PeerPipeline, Tiles
    from sspir.restoring.runner import Request

    if isinstance(pipeline, PeerPipeline):
        refuse_for_peer(options)
        tile = Tiles.tile if options.tile in (None, "auto") else None if options.tile == "off" else options.tile
        size, made_of = size_asked(options, pipeline.peer.scale), f"{options.weights} {pipeline.peer.checksum}"
        return Request(Tiles(tile), size, compare=options.compare, weights=made_of, drop_gps=options.drop_gps)

    from sspir.training.saved import SHIPPED
    from sspir.weights.load import weights_time

    settings = _settings(options, pipeline)
    settings.build(pipeline.scheduler)  # trouble with the settings is not the photos'
    weights = options.weights or SHIPPED
    return Request(
        settings,
        size_asked(options, pipeline.config.scale),
        options.seed,
        options.samples,
        options.compare,
        options.dtype,
        f"{weights} of {weights_time(weights)}",
        options.captioner_input,
        options.drop_gps,
    )


_BAR = "{percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} photos, {elapsed} gone, {remaining} left"


def _skipped(job: "Job", is_done: "Callable[[Job], bool]", options: argparse.Namespace) -> bool:
    return (options.skip_existing and job.target.exists()) or (not options.overwrite and is_done(job))


def _check_out(options: argparse.Namespace, jobs: "list[Job]", journal: "Journal") -> None:
    """Refuse an output folder that cannot be written, that holds files of others, or a file for two photos."""
    from sspir.restoring.jobs import side_files

    folder = journal.path.parent
    ours = options.skip_existing or options.overwrite or (folder == options.out and journal.path.exists())
    for job in jobs:
        if job.target.exists() and not (ours or job.output in journal.entries):
            raise UserError(
                f"{job.target} exists and was not written by this command; choose another --out, keep what is there "
                f"with --skip-existing, or replace it with --overwrite."
            )
    taken = {job.target: job for job in jobs}
    for job in jobs:
        for side in side_files(job.target, options.compare, options.samples).values():
            if (other := taken.setdefault(side, job)) is not job:
                raise UserError(
                    f"{side} would be written for {other.source} and for {job.source}; restore them into different "
                    f"folders, or without --format same, --compare and --samples."
                )
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"The folder {folder} cannot be made, as {above} is a file; choose another --out.")
    if not os.access(above, os.W_OK):
        raise UserError(f"The folder {above} cannot be written; choose another --out or change its rights.")


def _foretell(restorer: "JobRunner", left: "list[Job]", all_jobs: int) -> int:
    """Say what would be restored, and in about how many minutes. Returns the exit status: 1 if some would fail."""
    from sspir.restoring.forecast import forecast

    foreseen = forecast(restorer, left)
    for job, given, made in foreseen.sizes:
        sys.stdout.write(f"{job.source}, {given[1]} x {given[0]} -> {job.target}, {made[1]} x {made[0]}\n")
    for job, sentence in foreseen.refused:
        sys.stderr.write(f"would fail: {job.name}: {sentence}\n")
    sys.stdout.write(
        f"{len(foreseen.sizes)} would be restored, {all_jobs - len(left)} were done before, "
        f"{len(foreseen.refused)} would fail; about {foreseen.duration()}, {foreseen.source}.\n"
    )
    return 1 if foreseen.refused else 0


def _require_room(jobs: "list[Job]", scale: "float | Size", most: float) -> None:
    """Refuse if every result would be too large; if only some would, each of these is refused in its turn."""
    from sspir.images.room import require_room

    refused: list[UserError] = []
    for job in jobs:
        try:
            require_room(job.source, scale, most)
        except UserError as error:
            refused.append(error)
        else:
            return
    if refused:
        raise refused[0]


def _captions(options: argparse.Namespace, jobs: "Sequence[Job]") -> "Callable[[Job], str | None]":
    """The caption that the flags give to a job; None where the captioner is to be asked."""
    from sspir.captioners.tables import find_captions

    if options.caption is not None:
        return lambda job: str(options.caption)
    if options.captions is None:
        return lambda job: None
    folder = Path(options.captions)
    if folder.is_dir():
        return lambda job: _text(folder / Path(job.name).with_suffix(".txt"))
    find = find_captions(options.captions, [job.name for job in jobs])
    return lambda job: find(job.source, job.name) or None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None


def _pipeline(options: argparse.Namespace) -> "RestorationPipeline":
    """The pipeline with the captioner, on the device and in the type that the flags name."""
    import torch

    from sspir.config.build import build
    from sspir.config.compose import load_choice
    from sspir.memory import choose_device
    from sspir.training.saved import SHIPPED
    from sspir.weights.load import load_pipeline

    captioner = build(load_choice("captioner", options.captioner)) if options.captioner else None
    weights = options.weights or SHIPPED
    pipeline = load_pipeline(weights, options.checkpoint, options.stable_diffusion, options.clip, captioner)
    if options.captioner_input == "processor" and not pipeline.backbone.processor.predicts_image:
        raise UserError(f"{weights} has no Processor that predicts images; use --captioner-input restored.")
    try:
        pipeline.to(choose_device(options.device))
    except torch.OutOfMemoryError as error:
        raise UserError(f"The device {options.device!r} has no room for the networks; try --device cpu.") from error
    pipeline.max_output_pixels = options.max_output_pixels * 1e6 or float("inf")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.in_dtype(options.dtype)
    return pipeline.compiled() if options.compile else pipeline


def _settings(options: argparse.Namespace, pipeline: "RestorationPipeline") -> "Sampler":
    """The settings of the model's own sampler, changed by the flags."""
    from sspir.config.build import build
    from sspir.config.compose import load_choice

    changes: dict[str, Any] = {}
    if options.sampler:
        preset = build(load_choice("sampler", options.sampler))
        changes |= {name: getattr(preset, name) for name in preset.OF_THE_SOLVER}
    if options.colour:
        changes["colour"], changes["colour_strength"] = options.colour
    if options.start:
        changes["start"] = None if options.start == "noise" else options.start
    if options.tile:
        changes["tile"] = None if options.tile == "off" else options.tile
    flags = {"steps": "steps", "guidance": "guidance", "negative": "negative_caption", "fidelity": "fidelity"}
    changes |= {field: getattr(options, flag) for flag, field in flags.items() if getattr(options, flag) is not None}
    if options.samples > 1 and not pipeline.config.noised:
        raise UserError("This model adds no noise, so that all --samples would be the same picture; leave it out.")
    return pipeline.settings(**changes)

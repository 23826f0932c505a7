"""`sspir restore`: photos and folders of photos to restored ones."""

import argparse
import gc
import signal
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from sspir.commands.restore_flags import parser
from sspir.commands.restore_model import load, models_of, request_of
from sspir.commands.stop import EndedError, signals_to
from sspir.errors import UserError
from sspir.numbers import counted

if TYPE_CHECKING:
    from sspir.files import Journal
    from sspir.restoring.describing import CaptionOf
    from sspir.restoring.jobs import Job
    from sspir.restoring.peer import PeerPipeline
    from sspir.restoring.runner import JobRunner, Request
    from sspir.restoring.watch import Watch
    from sspir.sampling.pipeline import RestorationPipeline

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
  which one is best? each writes into its own folder, and restored/sheets shows them side by side:
    sspir restore photos/ --out restored --weights shipped --weights realesrgan --weights span
  a folder that a camera or a scanner writes into; Ctrl-C ends it, and the same command goes on:
    sspir restore --watch incoming/ --out restored
  the authors' checkpoint, which comes without the frozen networks:
    sspir restore photos/ --out restored --weights checkpoint-100000 --stable-diffusion sd15 --clip clip-vit-l14

restore.jsonl beside the results gets a line per photo: caption, settings, seed, seconds, peak memory, warnings, error;
before it one that says what files are begun, as no others are replaced, and one for each caption that a model was asked
for, so that it is asked once. The same command again restores
only what is missing, has changed, or failed. Exit status: 0 all done, 1 some photos failed (they are named), 2 nothing
could be done, 130 or 143 interrupted.
"""


def run(arguments: list[str]) -> int:
    """Parse the flags and restore. Returns the exit status."""
    options = parser(EXAMPLES).parse_args(arguments)
    models = models_of(options)
    with signals_to(_stop):
        try:
            return _watch(options, models) if options.watch else _restore(options, models)
        except EndedError as stopped:
            sys.stderr.write("\nStopped; the same command goes on with what is left.\n")
            return 128 + stopped.number


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up is not interrupted
    raise EndedError(number)


def _restore(options: argparse.Namespace, models: dict[str, argparse.Namespace]) -> int:
    """Restore with one model after the other, and show what several made side by side."""
    from sspir.files import Journal
    from sspir.restoring.jobs import JOURNAL, find_jobs, is_file, placed

    alone = is_file(options.out)
    if alone and len(models) > 1:
        raise UserError(f"--out {options.out} is one picture, but there are {len(models)} models; name a folder.")
    journals = {name: Journal(model.out.parent if alone else model.out, JOURNAL) for name, model in models.items()}
    known = {result: photo for journal in journals.values() for result, photo in journal.photos().items()}
    found = find_jobs(options.inputs, options.out, options.format, known)
    jobs = {name: placed(found, model.out) if name else found for name, model in models.items()}
    for name, model in models.items():
        _require_own(model, jobs[name], journals[name])
    if len(models) == 1:
        return _restore_with(models[""], found, journals[""])

    from sspir.restoring.checks import require_own
    from sspir.restoring.sheets import SHEETS, sheet_jobs, sheets_journal, write_sheets

    place = options.out / SHEETS
    kept = options.skip_existing or options.overwrite
    require_own(sheet_jobs(found, options.out), place, sheets_journal(options.out), False, 1, kept)
    states = []
    for name, model in models.items():
        states.append(_restore_with(model, jobs[name], journals[name], name))
        gc.collect()  # the next model needs the memory
    if not options.dry_run:
        made = {name: (jobs[name], journals[name]) for name in models}
        count, refused = write_sheets(options.out, made, options.max_pixels * 1_000_000, options.overwrite)
        sys.stdout.write(f"{counted(count, 'photo')} side by side in {place}.\n")
        if not options.skip_existing:  # which leaves them as they are
            sys.stderr.writelines(f"failed: {sentence}\n" for sentence in refused)
            states += [1] * bool(refused)
    return states[0] if len(set(states)) == 1 else 1


def _warn(jobs: "list[Job]", journal: "Journal", prefix: str) -> None:
    """Say what was less than asked for, the same sentence once for all its photos."""
    told: dict[str, list[str]] = {}
    for job in jobs:
        for text in journal.entries[job.output]["warnings"]:
            told.setdefault(text, []).append(job.name)
    for text, names in sorted(told.items(), key=lambda item: -len(item[1]))[:_MOST_WARNINGS]:
        photos = names[0] if len(names) == 1 else f"{len(names)} photos, such as {names[0]}"
        sys.stderr.write(f"{prefix}{photos}: {text}\n")
    if len(told) > _MOST_WARNINGS:
        sys.stderr.write(f"{prefix}... and {len(told) - _MOST_WARNINGS} more warnings in {journal.path}\n")


def _require_own(model: argparse.Namespace, jobs: "list[Job]", journal: "Journal") -> None:
    from sspir.restoring.checks import require_own

    require_own(jobs, model.out, journal, model.compare, model.samples, model.skip_existing or model.overwrite)


def _restore_with(options: argparse.Namespace, jobs: "list[Job]", journal: "Journal", name: str = "") -> int:
    """Restore with one model. Returns the exit status; what is told begins with the model's name, if it has one."""
    from sspir.restoring.describing import given_captions

    caption_of = given_captions(options.caption, options.captions, [job.name for job in jobs])

    from tqdm import tqdm

    from sspir.files import alone_in
    from sspir.restoring.checks import left_as_found, require_room_for_one
    from sspir.restoring.jobs import is_file

    prefix = name and f"{name}: "
    try:
        pipeline = load(options)
        request = request_of(options, pipeline)
    except UserError as error:
        raise UserError(f"{prefix}{error}") from error
    with tqdm(desc=name, total=0, unit="photo", disable=None, bar_format=_BAR) as bar:
        restorer = _restorer(options, pipeline, request, journal, caption_of, bar)
        left = [job for job in jobs if not _skipped(job, restorer, options)]
        if options.skip_existing and (sentence := left_as_found(jobs, journal)):
            sys.stderr.write(f"{prefix}{sentence}\n")
        require_room_for_one(left, request.scale, pipeline.max_output_pixels)
        if options.dry_run:
            return _foretell(restorer, left, len(jobs), prefix)
        with alone_in(options.out, "--out") if left and not is_file(options.out) else nullcontext():
            asked, left = left, _described(restorer, left, options)
            failed = _run(restorer, left, bar)
    for photo, sentence in failed.items():
        sys.stderr.write(f"{prefix}failed: {photo}: {sentence}\n")
    _warn([job for job in asked if job.name not in failed], journal, prefix)
    done, skipped = len(left) - len(failed), len(jobs) - len(left)
    sys.stdout.write(f"{prefix}{done} restored, {skipped} were done before, {len(failed)} failed; see {options.out}.\n")
    return 0 if not failed else 1 if done or skipped else 2


def _watch(options: argparse.Namespace, models: dict[str, argparse.Namespace]) -> int:
    """Restore what comes into the input folders, until a signal stops it."""
    from tqdm import tqdm

    from sspir.files import Journal, alone_in
    from sspir.restoring.describing import given_captions
    from sspir.restoring.jobs import JOURNAL, is_file
    from sspir.restoring.watch import EVERY, Watch

    if len(models) > 1 or options.dry_run or is_file(options.out):
        raise UserError("--watch takes one model and a folder as --out, and goes without --dry-run; leave them out.")
    (model,) = models.values()
    watch = Watch(model.inputs, model.out, model.format, lambda sentence: _tell(sys.stderr, sentence))
    journal = Journal(model.out, JOURNAL)
    _require_own(model, watch.all_jobs(journal.photos()), journal)
    with alone_in(model.out, "--out"), tqdm(total=0, unit="photo", disable=None, bar_format=_BAR) as bar:
        journal, pipeline = Journal(model.out, JOURNAL), load(model)
        request = request_of(model, pipeline)
        journal.begin()
        _tell(sys.stdout, f"Watching {', '.join(model.inputs)}; Ctrl-C ends it.")
        while True:
            if jobs := watch.jobs(journal.photos()):
                caption_of = given_captions(model.caption, model.captions)  # which may have changed, too
                restorer = _restorer(model, pipeline, request, journal, caption_of, bar)
                _restore_what_came(restorer, jobs, watch, bar, model)
            time.sleep(EVERY)


def _restore_what_came(
    restorer: "JobRunner", jobs: "list[Job]", watch: "Watch", bar: Any, options: argparse.Namespace
) -> None:
    from sspir.restoring.checks import belongs_to_another

    left = []
    for job in jobs:
        if _skipped(job, restorer, options):
            continue
        if not options.overwrite and (sentence := belongs_to_another(job, restorer.journal)):
            _tell(sys.stderr, sentence)
        else:
            left.append(job)
    try:
        left = _described(restorer, left, options)
        failed = _run(restorer, left, bar)
    except OSError as error:
        sentence = f"{restorer.journal.path} cannot be written: {error.strerror}; see to the disk and start again."
        raise UserError(sentence) from error
    for job in left:
        if job.name not in failed:
            _tell(sys.stdout, f"{job.source} -> {job.target}")
        elif job.source.exists():
            _tell(sys.stderr, f"failed: {job.name}: {failed[job.name]}")
        else:
            watch.forget(job)


def _tell(stream: Any, sentence: str) -> None:
    stream.write(sentence + "\n")
    stream.flush()  # whoever reads a log of it waits


def _restorer(
    options: argparse.Namespace,
    pipeline: "RestorationPipeline | PeerPipeline",
    request: "Request",
    journal: "Journal",
    caption_of: "CaptionOf",
    bar: Any,
) -> "JobRunner":
    """What restores with the model, and moves a bar as it works."""
    from sspir.restoring.runner import JobRunner

    most = options.max_pixels * 1_000_000

    def on_progress(share: float, step: Any) -> None:
        bar.update(share)

    return JobRunner(pipeline, request, journal, caption_of, options.batch, most, on_progress, options.overwrite)


def _described(restorer: "JobRunner", left: "list[Job]", options: argparse.Namespace) -> "list[Job]":
    """Have photos captioned with a bar; those that were restored without captions need none while there are none."""
    from tqdm import tqdm

    for _ in tqdm(restorer.describe(left), desc="captions", unit="photo", disable=None, leave=False):
        pass
    return [job for job in left if not _skipped(job, restorer, options)]


def _run(restorer: "JobRunner", left: "list[Job]", bar: Any) -> dict[str, str]:
    """Restore with a bar; name and sentence of each photo that failed."""
    bar.reset(total=len(left))
    return restorer.run(left)


_MOST_WARNINGS = 5
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} photos, {elapsed} gone, {remaining} left"


def _skipped(job: "Job", restorer: "JobRunner", options: argparse.Namespace) -> bool:
    return (options.skip_existing and job.target.exists()) or (not options.overwrite and restorer.is_done(job))


def _foretell(restorer: "JobRunner", left: "list[Job]", all_jobs: int, prefix: str) -> int:
    """Say what would be restored, and in about how many minutes. Returns the exit status: 1 if some would fail."""
    from sspir.restoring.forecast import forecast

    foreseen = forecast(restorer, left)
    for job, given, made in foreseen.sizes:
        sys.stdout.write(f"{prefix}{job.source}, {given[1]} x {given[0]} -> {job.target}, {made[1]} x {made[0]}\n")
    for job, sentence in foreseen.refused:
        sys.stderr.write(f"{prefix}would fail: {job.name}: {sentence}\n")
    sys.stdout.write(
        f"{prefix}{len(foreseen.sizes)} would be restored, {all_jobs - len(left)} were done before, "
        f"{len(foreseen.refused)} would fail; about {foreseen.duration()}, {foreseen.source}.\n"
    )
    return 1 if foreseen.refused else 0

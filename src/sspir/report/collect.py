"""Find results and runs below the given paths, and read what a report shows of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from sspir.errors import UserError
from sspir.evaluation.curve import CURVE
from sspir.files import FAILED, REPLACED
from sspir.report.ablation import unpaired
from sspir.report.curves import Curve, covered, key, read_points
from sspir.report.results import ResultSet, read_results
from sspir.report.runs import RUNNING, STOPPED, Run, read_run
from sspir.report.search import Search, read_searches
from sspir.training.run import CONFIG, SUMMARY, TRAIN_LOG
from sspir.training.study import DATABASE

LOGS = ("metrics.jsonl", "metrics.csv")
RESULTS = ("per_image.csv", "images.csv")
OF_EVALUATION = (FAILED, "evaluate.log", "evaluate.jsonl")  # what only an evaluation leaves before it has results
BEGUN = ("hydra.log", "restored", *OF_EVALUATION)
T = TypeVar("T")
N = TypeVar("N", ResultSet, Run)


class Collected(NamedTuple):
    """The results and runs that a report shows.

    Attributes:
        results: folders of results.
        runs: training runs.
        problems: what is left out or unfinished, one sentence each.
        curves: of runs whose checkpoints were all evaluated, as in `curve.json`.
        silent: training runs that have logged nothing, or not yet.
        searches: studies of `sspir sweep`.
        places: folder -> name of each run that was validated.
    """

    results: list[ResultSet]
    runs: list[Run]
    problems: list[str]
    curves: Sequence[Curve] = ()
    silent: Sequence[Run] = ()
    searches: Sequence[Search] = ()
    places: Mapping[Path, str] = MappingProxyType({})

    @property
    def all_runs(self) -> list[Run]:
        """Also those that have logged nothing."""
        return [*self.runs, *self.silent]


def collect(paths: Sequence[Path]) -> Collected:
    """Read all results and runs in and below the paths; what cannot be read is named and left out.

    Raises:
        UserError: a path does not exist, or nothing to report is found.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give folders that `sspir compare`, `evaluate` or `train` wrote.")
    found = gather(paths)
    if not any((found.results, found.runs, found.curves, found.searches)):
        given = ", ".join(str(path) for path in paths)
        nothing = f"{given} holds neither a per_image.csv nor a metrics.jsonl; give a folder of results or a run."
        raise UserError(" ".join([*found.problems, *_going_on(found)]) or nothing)
    return found._replace(problems=[*found.problems, *_going_on(found)])


def gather(paths: Sequence[Path]) -> Collected:
    """Read all that is there by now in and below the paths, as `collect` does; what is going on is no problem."""
    roots = roots_of(paths)
    problems: list[str] = []
    curves = _read_all(_holders(roots, CURVE), read_points, problems)
    results = _read_all(_holders(roots, *RESULTS), read_results, problems)
    points = covered(curves)
    results = {folder: result for folder, result in results.items() if not _is_point(folder, result, points)}
    runs = _read_all(_holders(roots, *LOGS, CONFIG), read_run, problems)
    problems += [*unpaired(list(results.values())), *_without_numbers(roots, runs)]
    shown = {folder: run for folder, run in runs.items() if run.curves or run.refused}
    silent = {folder: run for folder, run in runs.items() if folder not in shown and run.trained}
    found = _read_all(_holders(roots, DATABASE), read_searches, problems).values()
    searches = [search for of_folder in found for search in of_folder]
    named = _named(shown)
    places = {folder.resolve(): run.name for folder, run in zip(shown, named, strict=True) if run.validation}
    return Collected(_named(results), named, problems, list(curves.values()), _named(silent), searches, places)


def roots_of(paths: Sequence[Path]) -> list[Path]:
    """The folders in and below which is looked, of paths that exist."""
    return [path if path.is_dir() else path.parent for path in paths if path.exists()]


def _going_on(found: Collected) -> Iterator[str]:
    """Sentences about trainings that are going on."""
    for run in found.all_runs:
        if run.state == RUNNING:
            so_far = f"up to step {run.step:g} of {run.settings['trainer.max_steps']}" if run.curves else "nothing yet"
            yield f"{run.folder} is being trained: it has logged {so_far}."


def _is_point(folder: Path, result: ResultSet, points: Set[str]) -> bool:
    """Whether a result is that of a milestone which a curve shows."""
    record = result.summary.get("evaluation", {})
    checkpoint = record.get("checkpoint") or ""
    return checkpoint.startswith("step-") and key(folder, record, checkpoint) in points


def unique_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Shortest ends of the paths that tell the folders apart."""
    parts = {folder: folder.resolve().parts for folder in folders}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {folder: "/".join(part[-length:]) for folder, part in parts.items()}
        if len(set(names.values())) == len(set(parts.values())):
            return names
    return {folder: str(folder) for folder in folders}


def _holders(roots: Iterable[Path], *names: str) -> list[Path]:
    """The folders that hold one of the names, each once; files that a run has set aside do not count."""
    found = [
        sorted(
            {path.parent for name in names for path in root.rglob(name) if REPLACED not in path.relative_to(root).parts}
        )
        for root in roots
    ]
    return list({folder.resolve(): folder for folders in found for folder in folders}.values())


def _read_all(folders: Sequence[Path], read: Callable[[Path], T], problems: list[str]) -> dict[Path, T]:
    found = {}
    for folder in folders:
        try:
            found[folder] = read(folder)
        except UserError as error:
            problems.append(str(error))
    return found


def _without_numbers(roots: Iterable[Path], runs: Mapping[Path, Run]) -> Iterator[str]:
    """Sentences about trainings and evaluations that failed or were stopped, and evaluations that are not done yet."""
    for folder in _holders(roots, TRAIN_LOG):
        why = _last_error(folder / TRAIN_LOG)
        if why and not any((folder / name).is_file() for name in (*LOGS, CONFIG)):
            yield f"{folder} was never trained: {why}"
    for folder, run in runs.items():
        if run.state == RUNNING:
            continue
        silent = not (run.curves or run.refused or (folder / SUMMARY).is_file())  # a finished one may have no loggers
        if silent and run.trained:
            why = _last_error(folder / TRAIN_LOG) or "its training failed at the start, or has only begun."
            yield f"{folder} has logged nothing: {why}"
        elif STOPPED in run.settings:
            steps = run.settings["trainer.max_steps"]
            yield f"{folder} is not finished: it has logged up to step {run.settings[STOPPED]} of {steps}."
    for folder in _holders(roots, *BEGUN):
        its = "evaluation" in folder.resolve().parts or any((folder / name).is_file() for name in OF_EVALUATION)
        if its and not any((folder / name).exists() for name in (*RESULTS, CURVE)):
            note = folder / FAILED
            why = f": {note.read_text(encoding='utf-8').strip()}" if note.is_file() else ", or has only begun."
            yield f"{folder} holds no results: its evaluation failed{why}"


def _last_error(log: Path) -> str:
    """The sentence with which a training ended, as its log has it; "" where it has none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    _, error, why = text.rpartition("][ERROR] - ")
    return why.strip().splitlines()[0] if error and why.strip() else ""


def _named(found: Mapping[Path, N]) -> list[N]:
    """Give each a unique name: its own, followed by its folder where several have the same name."""
    folders = unique_names(list(found))
    counts = Counter(each.name for each in found.values())

    def name(folder: Path, own: str) -> str:
        if not own:
            return folders[folder]
        return own if counts[own] == 1 else f"{own} ({folders[folder]})"

    return [replace(each, name=name(folder, each.name)) for folder, each in found.items()]

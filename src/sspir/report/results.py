"""Results: what `sspir compare` or `sspir evaluate` measured, of which run, and where its pictures lie."""

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sspir.errors import UserError
from sspir.moved import named
from sspir.report.runs import CONFIGS, Trained, read_settings, trained

STEP = "evaluated step"  # where it may differ from run to run though the checkpoint has the same name


class Evaluation(NamedTuple):
    """How a run was measured; runs that were measured in different ways are not compared as seeds of each other.

    Attributes:
        benchmark: its name.
        checkpoint: of the run; "" for a saved pipeline, and in results that do not say.
        settings: what differs from the default evaluation, as text.
        pictures: digits of a hash of the benchmark's photos and of all its settings but where they lie.
    """

    benchmark: str
    checkpoint: str = ""
    settings: str = ""
    pictures: str = ""

    @property
    def title(self) -> str:
        """Benchmark, checkpoint and settings, as far as they are known."""
        return ", ".join(filter(None, self[:3]))


@dataclass(frozen=True)
class ResultSet:
    """The results that `sspir compare` or `sspir evaluate` wrote into a folder.

    Attributes:
        name: which run was measured how, or the folder's name; unique in a report.
        summary: of `summary.json`.
        values: image -> method -> metric -> value.
        files: image -> "hq", "lq" or method -> path of the picture; one that is lost has the path where it should be.
        captions: image -> text, where there is one.
        evaluation: how it was measured.
        trained: the run that was measured, if it is one.
        problems: sentences about pictures that are lost.
    """

    name: str
    summary: dict[str, Any]
    values: dict[str, dict[str, dict[str, float]]]
    files: dict[str, dict[str, Path]]
    captions: dict[str, str]
    evaluation: Evaluation
    trained: Trained | None = None
    problems: list[str] = field(default_factory=list)


def read_results(folder: Path) -> ResultSet:
    """Read a folder of results.

    Raises:
        UserError: its files are broken.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        values: dict[str, dict[str, dict[str, float]]] = {}
        for row in _csv(folder / "per_image.csv"):
            cells = {key: float(text) for key, text in row.items() if key not in ("image", "method") and text}
            values.setdefault(row["image"], {})[row["method"]] = cells
        files, problems = _pictures(folder)
        captions = folder / "captions.json"
        texts = json.loads(captions.read_text(encoding="utf-8")) if captions.exists() else {}
        summary["methods"], summary["metrics"], summary["comparisons"]
        record = summary.get("evaluation", {})
        evaluation = _evaluation(folder, record)
        run = _trained(folder, record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = f"{type(error).__name__}: {error}"
        raise UserError(f"The results in {folder} cannot be read ({words}); measure again.") from error
    name = ""
    if record:
        what = f"{run.experiment}/{run.variant}-s{run.seed}" if run else Path(record["run"]).name
        moves = evaluation.checkpoint and not evaluation.checkpoint.startswith("step-")
        at = f"{evaluation.checkpoint} (step {record['step']})" if moves else evaluation.checkpoint
        name = f"{what} on {evaluation._replace(checkpoint=at).title}"
    return ResultSet(name, summary, values, files, texts, evaluation, run, problems)


def _evaluation(folder: Path, record: Mapping[str, Any]) -> Evaluation:
    if record:
        settings = ", ".join(f"{key}={value}" for key, value in record["settings"].items())
        return Evaluation(record["benchmark"], record.get("checkpoint") or "", settings, _pictures_of(record))
    run = _run_above(folder)
    inside = folder.resolve().relative_to(run).as_posix() if run else folder.resolve().name
    return Evaluation(inside.removeprefix("evaluation/"))


def _pictures_of(record: Mapping[str, Any]) -> str:
    inputs = record.get("inputs", {})
    made = {key: value for key, value in inputs.get("benchmark", {}).items() if key != "photos"}
    text = json.dumps([inputs.get("revision"), inputs.get("photos"), named(made)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if inputs else ""


def _trained(folder: Path, record: Mapping[str, Any]) -> Trained | None:
    """The run that was measured: the one that the results name, else the one whose folder they lie in."""
    above = _run_above(folder)
    if not record:
        return _run_of(above) if above else None
    if record.get("name") is None:  # a saved pipeline
        return None
    named = (record["name"], record["variant"], str(record["seed"]))
    runs = [_run_of(place) for place in (above, locate(folder, record["run"])) if place]
    run = next((run for run in runs if run and run[:3] == named), Trained(*named, {}))
    stopped = {STEP: str(record["step"])} if record["checkpoint"].startswith("last") else {}
    return run._replace(settings={**run.settings, **stopped})


def _run_of(folder: Path) -> Trained | None:
    try:
        return trained(read_settings(folder))
    except UserError:  # the numbers are worth showing without
        return None


def _run_above(folder: Path) -> Path | None:
    """The run folder that a folder of results lies in."""
    parents = folder.resolve().parents
    return next((parent for parent in parents if any((parent / part).is_file() for part in CONFIGS)), None)


def _pictures(folder: Path) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """The pictures that `images.csv` lists, and a sentence per method whose pictures are lost."""
    files: dict[str, dict[str, Path]] = {}
    lost: dict[str, list[str]] = {}
    for row in _csv(folder / "images.csv") if (folder / "images.csv").exists() else []:
        image, role, path = row["image"], row["role"], row["path"]
        own = path.startswith((f"{role}/", f"peers/{role}/"))
        found = locate(folder, path, f"{role}/{image}{Path(path).suffix}", own=own)
        if found is None:
            lost.setdefault(role, []).append(path)
        files.setdefault(image, {})[role] = found or folder / path
    return files, [f"{len(paths)} pictures of {role} are missing: first {paths[0]}" for role, paths in lost.items()]


def locate(folder: Path, path: str, *inside: str, own: bool = False) -> Path | None:
    """Find the file that a path in results means; the folder of the results may have been moved since.

    Args:
        folder: of the results.
        path: absolute, or relative to the folder or to the working folder of the evaluation.
        inside: other places in the folder where the file may lie.
        own: it was written into the folder, so that a file of its name elsewhere is another one.

    Returns:
        The file below the folder, else below the present working folder, else below the nearest parent of the folder;
        None if it is in none of them.
    """
    elsewhere = [] if own else [place / path for place in (Path(), *folder.resolve().parents)]
    return next(
        (place for place in [folder / path, *(folder / name for name in inside), *elsewhere] if place.exists()), None
    )


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))

"""Find results and runs below the given paths, and read what a report shows of them."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from sspir.errors import UserError
from sspir.report.settings import flatten

Curve = list[tuple[float, float]]  # (step, value), by step
NOT_CURVES = ("step", "epoch")


class Trained(NamedTuple):
    """Which run of a sweep was measured."""

    experiment: str
    variant: str
    seed: str


@dataclass(frozen=True)
class ResultSet:
    """What `sspir compare` or `sspir evaluate` wrote into a folder.

    Attributes:
        name: folder name, unique in a report.
        summary: of `summary.json`.
        values: image -> method -> metric -> value.
        files: image -> "hq", "lq" or method -> path of the picture.
        captions: image -> text, where there is one.
        trained: the run whose folder it lies in, if it lies in one.
    """

    name: str
    summary: dict[str, Any]
    values: dict[str, dict[str, dict[str, float]]]
    files: dict[str, dict[str, Path]]
    captions: dict[str, str]
    trained: Trained | None = None


@dataclass(frozen=True)
class Run:
    """What training wrote into a run folder.

    Attributes:
        name: folder name, unique in a report.
        curves: logged name -> its curve.
        settings: flat configuration, "backbone.pixel_attention" -> value as text.
    """

    name: str
    curves: dict[str, Curve]
    settings: dict[str, str] = field(default_factory=dict)


def collect(paths: Sequence[Path]) -> tuple[list[ResultSet], list[Run]]:
    """Read all results and runs in and below the paths.

    Raises:
        UserError: a path does not exist, or nothing to report is found.
    """
    results: dict[Path, None] = {}
    runs: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give folders that `sspir compare`, `evaluate` or `train` wrote.")
        root = path if path.is_dir() else path.parent
        results.update(dict.fromkeys(sorted({file.parent for file in root.rglob("per_image.csv")})))
        logs = {file.parent for name in ("metrics.jsonl", "metrics.csv") for file in root.rglob(name)}
        runs.update(dict.fromkeys(sorted(logs)))
    if not results and not runs:
        given = ", ".join(str(path) for path in paths)
        raise UserError(
            f"{given} holds neither a per_image.csv nor a metrics.jsonl; give a folder of results or a run."
        )
    of_results, of_runs = unique_names(list(results)), unique_names(list(runs))
    return [read_results(folder, of_results[folder]) for folder in results], [read_run(f, of_runs[f]) for f in runs]


def unique_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Shortest ends of the paths that tell the folders apart."""
    parts = {folder: folder.resolve().parts for folder in folders}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {folder: "/".join(part[-length:]) for folder, part in parts.items()}
        if len(set(names.values())) == len(set(parts.values())):
            return names
    return {folder: str(folder) for folder in folders}


def read_results(folder: Path, name: str) -> ResultSet:
    """Read a folder of results.

    Raises:
        UserError: its files are broken.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text())
        values: dict[str, dict[str, dict[str, float]]] = {}
        for row in _csv(folder / "per_image.csv"):
            cells = {key: float(text) for key, text in row.items() if key not in ("image", "method") and text}
            values.setdefault(row["image"], {})[row["method"]] = cells
        files: dict[str, dict[str, Path]] = {}
        if (folder / "images.csv").exists():
            for row in _csv(folder / "images.csv"):
                files.setdefault(row["image"], {})[row["role"]] = folder / row["path"]
        captions = folder / "captions.json"
        texts = json.loads(captions.read_text()) if captions.exists() else {}
        summary["methods"], summary["metrics"], summary["comparisons"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The results in {folder} cannot be read ({error!r}); measure again.") from error
    return ResultSet(name, summary, values, files, texts, _trained(folder))


def _trained(folder: Path) -> Trained | None:
    configs = (parent / "config.yaml" for parent in folder.resolve().parents)
    config = next((path for path in configs if path.is_file()), None)
    settings = flatten(OmegaConf.to_container(OmegaConf.load(config))) if config else {}
    if not {"name", "variant", "seed"} <= settings.keys():
        return None
    return Trained(settings["name"], settings["variant"], settings["seed"])


def read_run(folder: Path, name: str) -> Run:
    """Read the curves and the configuration of a run; a line torn by a kill is skipped."""
    curves: dict[str, dict[float, float]] = {}
    for row in _history(folder):
        step = row.get("step")
        if step is None:
            continue
        for key, value in row.items():
            if key not in NOT_CURVES and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(key, {})[float(step)] = float(value)  # a resumed run repeats steps: the last counts
    config = next((folder / part for part in ("config.yaml", ".hydra/config.yaml") if (folder / part).exists()), None)
    settings = flatten(OmegaConf.to_container(OmegaConf.load(config))) if config else {}
    return Run(name, {key: sorted(points.items()) for key, points in sorted(curves.items())}, settings)


def _history(folder: Path) -> Iterator[dict[str, Any]]:
    if (folder / "metrics.jsonl").exists():
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
        return
    for row in _csv(folder / "metrics.csv"):
        yield {key: float(text) for key, text in row.items() if text}


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

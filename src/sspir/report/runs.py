"""Training runs: their identity in a sweep, their configuration, and the curves they logged."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # a dependency of omegaconf

from sspir.errors import UserError
from sspir.files import NOT_APPLICABLE, read_json
from sspir.moved import named, present_config
from sspir.report.settings import flatten
from sspir.training.history import read_history
from sspir.training.run import ENVIRONMENT, is_trained_in

Curve = list[tuple[float, float]]  # (step, value), by step
CONFIGS = ("config.yaml", ".hydra/config.yaml")
STOPPED = "not finished, step"  # of a run that did not reach its end: no setting, but no seed either
PHOTOS = "photos trained on"  # no setting either
FINISHED, RUNNING, STOPPED_RUN, REFUSED = "finished", "running", "stopped", "not applicable"  # states of a run
NOT_CURVES = ("step", "epoch")
VALIDATION = ("val", "structure", "bicubic")  # what training measures: restored, the Processor's image, bicubic


class Trained(NamedTuple):
    """The identity of a run in a sweep.

    Attributes:
        experiment: its name.
        variant: of the ablation.
        seed: of the training.
        settings: flat configuration; empty where it is not known.
    """

    experiment: str
    variant: str
    seed: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """Curves and configuration of a run folder.

    Attributes:
        name: folder name, unique in a report.
        curves: logged name -> its curve, validation first.
        settings: flat configuration, "backbone.pixel_attention" -> value as text.
        refused: the sentence with which the model refused its configuration; "" if it did not.
        config: the configuration as it is nested.
        environment: where it ran, as in `environment.json`; empty where that is not known.
        folder: of the run.
        state: "finished", "running", "stopped" or "not applicable".
        logged_at: when its log was last written to, in seconds since 1970.
    """

    name: str
    curves: dict[str, Curve]
    settings: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    state: str = FINISHED
    logged_at: float = 0.0

    @property
    def step(self) -> float:
        """The last step that it has logged; 0 for none."""
        return max((curve[-1][0] for curve in self.curves.values()), default=0.0)

    @property
    def panels(self) -> list[str]:
        """Names of the images whose panels lie in the folder."""
        folder = self.folder / "panels"
        drawn = [path.relative_to(folder).as_posix() for path in folder.rglob("*-step*.png")]
        return sorted({name.rpartition("-step")[0] for name in drawn})

    @property
    def max_steps(self) -> int:
        """The step at which its configuration ends it; 0 where something else does."""
        steps = self.settings.get("trainer.max_steps", "")
        return int(steps) if steps.isdigit() else 0

    @property
    def trained(self) -> Trained | None:
        """The run's identity in a sweep, if its configuration says so."""
        return trained(self.settings)

    @property
    def validation(self) -> dict[str, float]:
        """Validation metric -> its last value, in the order of the curves."""
        return {name: curve[-1][1] for name, curve in self.curves.items() if name.startswith("val")}


def trained(settings: Mapping[str, str]) -> Trained | None:
    """The identity of the run with this configuration; None if `sspir train` did not write it."""
    if not {"name", "variant", "seed"} <= settings.keys():
        return None
    return Trained(settings["name"], settings["variant"], settings["seed"], settings)


def read_run(folder: Path) -> Run:
    """Read the curves and the configuration of a run; a line torn by a kill is skipped.

    Raises:
        UserError: its files are broken beyond that.
    """
    curves: dict[str, dict[float, float]] = {}
    try:
        config = read_config(folder)
        settings = {**flatten(config), **_photos(folder)}
        for row in _history(folder):
            for key, value in row.items():
                if key not in NOT_CURVES and isinstance(value, int | float) and math.isfinite(value):
                    curves.setdefault(key, {})[float(row["step"])] = float(value)  # of repeated steps the last counts
    except (OSError, ValueError) as error:
        raise UserError(
            f"The run in {folder} cannot be read ({type(error).__name__}: {error}); look at its files."
        ) from error
    state = _state(folder, settings)
    if curves and state in (RUNNING, STOPPED_RUN):
        settings[STOPPED] = f"{max(step for points in curves.values() for step in points):g}"
    note = folder / NOT_APPLICABLE
    refused = note.read_text(encoding="utf-8").strip() if note.is_file() and not curves else ""
    found = {key: sorted(curves[key].items()) for key in sorted(curves, key=order)}
    state, log = REFUSED if refused else state, folder / "metrics.jsonl"
    logged_at = log.stat().st_mtime if log.is_file() else 0.0
    environment = read_json(folder / ENVIRONMENT)  # {} of a run from elsewhere: its curves are worth showing without
    return Run("", found, settings, refused, config, environment, folder, state, logged_at)


def _state(folder: Path, settings: Mapping[str, str]) -> str:
    if (folder / "summary.json").is_file() or "trainer.max_steps" not in settings:  # the latter is not of our training
        return FINISHED
    return RUNNING if is_trained_in(folder) else STOPPED_RUN


def read_settings(folder: Path) -> dict[str, str]:
    """The flat configuration of a run folder, and `PHOTOS`; empty where it holds none.

    Raises:
        UserError: it is broken.
    """
    return {**flatten(read_config(folder)), **_photos(folder)}


def _photos(folder: Path) -> dict[str, str]:
    """`PHOTOS`: how many a run was trained on and their hash, one after the other where it went on with others."""
    environment = read_json(folder / ENVIRONMENT)
    seen = [sets.get("train") for sets in (*environment.get("data_before", ()), environment.get("data", {}))]
    told = [f"{photos['photos']} ({photos['hash'][:8]})" for photos in seen if photos]
    return {PHOTOS: ", then ".join(told)} if told else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder, classes by their present names; empty where it holds none.

    Raises:
        UserError: it is broken.
    """
    config = next((folder / part for part in CONFIGS if (folder / part).is_file()), None)
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(config)) if config else {}
        return dict(named(present_config(settings)))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        words = " ".join(str(error).split())
        raise UserError(f"The configuration {config} cannot be read ({words}); restore or delete it.") from error


def order(name: str) -> tuple[bool, str, int, str]:
    """Sort key of a logged name: validation first, its mean before its sets, restored before bicubic."""
    head = name.partition("/")[0]
    rank = VALIDATION.index(head) if head in VALIDATION else len(VALIDATION)
    return head not in VALIDATION, set_of(name), rank, name


def set_of(name: str) -> str:
    """The validation set in "val/SET/METRIC"; "" for a mean over the sets, and for the only set."""
    head, *between, _ = ["", *name.split("/")] if "/" not in name else name.split("/")
    return "/".join(between) if head in VALIDATION else ""


def _history(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the values that were logged at each step, with the step."""
    if (folder / "metrics.jsonl").exists():
        yield from read_history(folder / "metrics.jsonl")
    elif (folder / "metrics.csv").exists():
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for cells in csv.DictReader(file):
                if cells.get("step"):
                    row = {key: float(text) for key, text in cells.items() if text}
                    yield {**row, "step": row["step"] + 1}  # Lightning counts from 0

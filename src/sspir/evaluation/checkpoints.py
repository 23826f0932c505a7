"""A run's checkpoints on a benchmark: a curve of every metric over steps, and the step that is best by each."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sspir.config.build import build
from sspir.config.compose import told
from sspir.errors import UserError
from sspir.evaluation.curve import CURVE, best_steps, read_curve, sentences
from sspir.evaluation.evaluate import NothingMeasurableError, evaluate
from sspir.files import FAILED, write_text
from sspir.training.checkpoint import DamagedError
from sspir.training.run import CHECKPOINTS, CONFIG
from sspir.weights.load import step_of

log = logging.getLogger(__name__)
LOG = "evaluate.log"  # Hydra's
ALL = "all"  # what `checkpoint` says
OF_RUN = ("run", "name", "variant", "seed", "benchmark", "settings")  # of an evaluation's record


def evaluate_asked(config: DictConfig) -> dict[str, Any]:
    """Evaluate the checkpoint that a configuration asks for, or all of them; note why where that fails.

    Args:
        config: composed `conf/evaluate.yaml`.
    """
    note = Path(config.out, FAILED)
    note.unlink(missing_ok=True)
    try:
        return evaluate_all(config) if config.checkpoint == ALL else evaluate(config)
    except NothingMeasurableError:
        if [path.name for path in note.parent.glob("*")] == [LOG]:  # Hydra has made the folder
            (note.parent / LOG).unlink()
            note.parent.rmdir()
        raise
    except Exception as error:
        if (sentence := told(error)) and note.parent.is_dir():  # Hydra has made the folder
            write_text(note, f"{sentence}\n")
        raise


def evaluate_all(config: DictConfig) -> dict[str, Any]:
    """Evaluate a run's milestones, its last and its best checkpoint, each step once, and say which step is best.

    What is measured already is not measured again. `curve.json` in the folder `out` holds the curve; each checkpoint
    has a folder beside it (below it where `out` was given) as if it had been evaluated alone.

    Args:
        config: composed `conf/evaluate.yaml`.

    Returns:
        What `curve.json` holds.

    Raises:
        UserError: the run has no checkpoints; some cannot be evaluated, after all others were; or the benchmark that
            chooses has not been measured.
    """
    run, out = Path(config.run).expanduser(), Path(config.out)
    if not (run / CONFIG).is_file():
        raise UserError(f"checkpoint={ALL} takes a run folder, and {run} is none; leave it out.")
    names = checkpoints(run)
    if not any(name.startswith("step-") for name in names):
        log.warning("%s has no milestones; keep_every=N in its training keeps one every N steps.", run)
    before = read_curve(out)
    curve: dict[str, Any] = {"points": [], "problems": []}
    logger = None
    for name in names:
        if _step(run, name) in [point["step"] for point in curve["points"]]:  # a milestone may be the last one too
            continue
        try:
            summary = evaluate(_alone(config, name))
        except DamagedError as error:
            log.error("%s", error)
            curve["problems"].append(str(error))
            continue
        record = summary["evaluation"]
        curve |= {key: record[key] for key in OF_RUN} | {"metrics": summary["metrics"]}
        point = {"step": record["step"], "checkpoint": name, "methods": summary["methods"]}
        curve["points"] = sorted([*curve["points"], point], key=lambda each: int(each["step"]))
        if point not in before.get("points", []):  # W&B has the others
            logger = logger or build(config.wandb)
            _send(logger, point, summary)
            _write(out, curve)
    if logger:
        logger.experiment.finish()
    if curve["points"]:
        _choose(config, curve, out)
        _write(out, curve)
        log.info("%s", "\n".join(sentences(curve)))
    if curve["problems"]:
        raise UserError("\n".join(curve["problems"]))
    return curve


def _write(out: Path, curve: Mapping[str, Any]) -> None:
    write_text(out / CURVE, json.dumps(curve, indent=2) + "\n")


def checkpoints(run: Path) -> list[str]:
    """Names of a run's milestones by their steps, then "last" and "best", as far as they are there.

    Raises:
        UserError: there is none.
    """
    present = {path.stem for path in (run / CHECKPOINTS).glob("*.ckpt")}
    milestones = [name for name in present if name.removeprefix("step-").isdigit() and name.startswith("step-")]
    found = sorted(milestones, key=lambda name: int(name.removeprefix("step-")))
    found += [name for name in ("last", "best") if name in present]
    if not found:
        raise UserError(f"The run {run} has no checkpoint yet; train it first.")
    return found


def _step(run: Path, checkpoint: str) -> int | None:
    """The step of a checkpoint; None where it is damaged, which is told where it is used."""
    with suppress(Exception):
        return step_of(run, checkpoint)
    return None


def _alone(config: DictConfig, checkpoint: str) -> DictConfig:
    """The configuration of one checkpoint's evaluation."""
    alone = config.copy()
    alone.checkpoint, alone.wandb = checkpoint, None
    if alone.out == config.out:  # which was given, and does not name the checkpoint
        alone.out = str(Path(config.out, checkpoint))
    return alone


def _send(logger: Any, point: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Log a step's means to W&B, each metric over `step`; `logger` may be None."""
    if not logger:
        return
    means = {
        f"{method}/{metric}": cell["mean"]
        for method, cells in point["methods"].items()
        for metric, cell in cells.items()
    }
    for name in means:
        logger.prefer(name, summary["metrics"][name.rpartition("/")[2]]["higher_is_better"])
    logger.log_metrics(means, point["step"] - 1)  # it counts as Lightning does


def _choose(config: DictConfig, curve: dict[str, Any], out: Path) -> None:
    """Note in a curve the best steps, by the numbers of the benchmark that chooses."""
    chooser = config.choose_on or curve["benchmark"]
    curves = [curve] if chooser == curve["benchmark"] else _of_benchmark(chooser, curve, out)
    if not curves:
        curve["problems"].append(
            f"choose_on={chooser}: {curve['run']} was not measured on it with these settings; give "
            f"benchmark={chooser},{curve['benchmark']}."
        )
        return
    curve["choose_on"] = chooser
    curve["chosen"] = best_steps(curves[0], [point["step"] for point in curve["points"]])


def _of_benchmark(name: str, curve: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """The same run's curves on another benchmark with the same settings, of the folders beside this one's."""

    def settings(of: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in of["settings"].items() if not key.startswith("benchmark")}

    found = [read_curve(path.parent) for path in sorted(out.absolute().parents[1].glob(f"*/*/{CURVE}"))]
    same = [
        other
        for other in found
        if other.get("benchmark") == name
        and all(other[key] == curve[key] for key in ("name", "variant", "seed"))
        and settings(other) == settings(curve)
    ]
    return sorted(same, key=lambda other: bool(other["run"] != curve["run"]))

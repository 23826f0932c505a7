"""Loggers of a run's numbers: a JSON-lines file of our own, and W&B."""

import json
import math
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn
from PIL.Image import Image
from pytorch_lightning.loggers import Logger, WandbLogger

from sspir.errors import UserError
from sspir.training.artifacts import KINDS, STAGED, has_account, publish
from sspir.training.history import HEADER
from sspir.training.run import METRICS, SUMMARY, code_root, code_state, is_first_process, run_id

Level = Literal["INFO", "WARN", "ERROR"]


class JsonLinesLogger(Logger):
    """The primary record: lines of logged steps in `metrics.jsonl`, complete after every line.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS
        self._last: dict[str, Any] = {}  # line

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """Nothing is versioned: a resumed run appends to its file."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line: {"step": ..., name: value, ...}; Lightning numbers the update that is being made from 0."""
        line = {"step": None if step is None else step + 1, **metrics}
        if line == self._last:  # Lightning tells a step's rate at each of the batches that it accumulates
            return
        self._last = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write(json.dumps(HEADER) + "\n")
            file.write(json.dumps(line) + "\n")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds the resolved configuration."""


def _spared(method: Callable[..., None]) -> Callable[..., None]:
    """Have a method of a `StepLogger` warn where it fails, once a run: training is worth more than its dashboard."""

    @wraps(method)
    def guarded(self: "StepLogger", *arguments: Any, **settings: Any) -> None:
        try:
            method(self, *arguments, **settings)
        except Exception as error:
            if not self.troubled:
                self.troubled = True
                rank_zero_warn(f"W&B misses a part of this run ({error!r}); the training goes on, more is not told.")

    return guarded


class StepLogger(WandbLogger):
    """A W&B run all of whose charts go over `step`, the updates of the generator that our own record counts too.

    Args:
        run: of W&B.
        folder: of the run.
        artifacts: what of the checkpoints goes to W&B when the training is finished, see `sspir.training.artifacts`.
    """

    AXIS = "step"

    def __init__(self, run: Any, folder: str, artifacts: str = "none") -> None:
        super().__init__(experiment=run)
        self.folder, self.artifacts, self.troubled = Path(folder), artifacts, False
        run.define_metric("*", step_metric=self.AXIS)
        self._note_code()

    @_spared
    def _note_code(self) -> None:
        """Note in W&B's configuration which code runs, and add what is not committed of it as a file."""
        code, patch = code_state()
        self.experiment.config.update({"code": code}, allow_val_change=True)
        path = Path(self.experiment.dir, "code.patch")
        if patch and path.parent.is_dir():  # a disabled run has none
            path.write_bytes(patch)
            self.experiment.save(str(path), base_path=str(path.parent), policy="now")

    @_spared
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, at a step where there is one: Lightning's number of the update that is being made, from 0."""
        super().log_metrics(metrics if step is None else {**metrics, self.AXIS: step + 1}, step)

    log_hyperparams = _spared(WandbLogger.log_hyperparams)
    log_image = _spared(WandbLogger.log_image)

    @_spared
    def log_rows(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Log a table; a row lacks what others have, and Pillow's pictures become W&B's."""
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[row.get(column) for column in columns] for row in rows]
        shown = [[wandb.Image(cell) if isinstance(cell, Image) else cell for cell in row] for row in cells]
        self.log_metrics({name: wandb.Table(columns, shown)}, step)

    @_spared
    def prefer(self, metric: str, higher_is_better: bool | None) -> None:
        """Say which end of a metric is the good one, so that W&B's summary shows the best value."""
        if higher_is_better is not None:
            end = "max" if higher_is_better else "min"
            self.experiment.define_metric(metric, step_metric=self.AXIS, summary=end)

    @_spared
    def alert(self, title: str, text: str, level: Level) -> None:
        """Send an alert, which W&B passes on as its user wishes: by mail or Slack."""
        self.experiment.alert(f"{title}: {self.experiment.name}"[:63], text, level)

    @_spared
    def alert_once(self, title: str, text: str, level: Level) -> None:
        """Send an alert unless this run has sent one of that title, before it was stopped too."""
        sent = self.folder / "wandb" / f"alerted-{title.replace(' ', '-')}"
        if not sent.exists():
            sent.parent.mkdir(exist_ok=True)
            sent.touch()
            self.alert(title, text, level)

    @_spared
    def publish(self) -> None:
        """Send the checkpoints, or what they are, as artifacts."""
        publish(self.experiment, self.folder, self.artifacts)

    @_spared
    def finish(self, status: int) -> None:
        """End the W&B run, so that the next job of a multirun gets its own; 0 says that all went well."""
        self.experiment.finish(exit_code=status)
        if not self.experiment.offline:
            shutil.rmtree(self.folder / STAGED, ignore_errors=True)


def wandb_runs(trainer: pl.Trainer) -> list[StepLogger]:
    """The W&B runs that a trainer logs to; none on other ranks than the first."""
    return [logger for logger in trainer.loggers if isinstance(logger, StepLogger)]


def end_runs(trainer: pl.Trainer, folder: Path, monitor: str) -> None:
    """End a training's W&B runs, so that the next job of a multirun gets its own; to be called in `finally`.

    An alert says how the training ended, and its artifacts go out if it is finished.

    Args:
        trainer: of the training.
        folder: of the run, whose `summary.json` is there if the training is finished.
        monitor: the validation metric that the alert tells.
    """
    finished, error = (folder / SUMMARY).is_file(), sys.exception()
    for run in wandb_runs(trainer):
        if finished:
            run.publish()
            value = json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get(f"val/{monitor}", math.nan)
            title, text, level = "finished", f"val/{monitor} is {value:.4g}.", "INFO"
        elif isinstance(error, SystemExit | KeyboardInterrupt):
            title, text, level = "stopped", "with resume=auto the same command goes on.", "WARN"
        elif type(error).__name__ == "TrialPruned":  # Optuna's, which may not be installed
            title, text, level = "pruned", "the search has given it up.", "INFO"
        else:
            title, text, level = "failed", str(error), "ERROR"
        run.alert(title, f"{folder}, step {trainer.global_step}: {text}", level)
        run.finish(0 if finished else 1)


def wandb_logger(
    folder: str,
    project: str,
    group: str,
    name: str,
    tags: list[str],
    offline: str = "auto",
    job_type: str = "train",
    artifacts: str = "none",
) -> WandbLogger:
    """A W&B run that is offline without an account and never stops a training; on other ranks than the first, none.

    Args:
        folder: of the run; it holds the id, so that a resumed run goes on in W&B.
        project: of W&B.
        group: runs of one experiment.
        name: of the run.
        tags: of the run.
        offline: "auto" goes online where an API key is known, "yes" never, "no" insists.
        job_type: "train" or "evaluate": W&B's dashboards group by it.
        artifacts: "checkpoints" sends the best and the last one when the training is finished, "manifest" their names,
            sizes and checksums, "none" nothing.

    Raises:
        UserError: `artifacts` is none of these.
    """
    if artifacts not in KINDS:
        raise UserError(f"logger.wandb.artifacts={artifacts} is none of {', '.join(KINDS)}; choose one of them.")
    if not is_first_process():
        return WandbLogger()  # opens nothing there
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("offline" if offline == "yes" else "online")
    if mode == "online" and offline == "auto" and not has_account():
        mode = "offline"
    settings = wandb.Settings(init_timeout=20, login_timeout=5, silent=True, git_root=code_root())
    Path(folder).mkdir(parents=True, exist_ok=True)

    def logger(mode: Literal["online", "offline", "disabled"]) -> WandbLogger:
        run = wandb.init(
            project=project, group=group, name=name, tags=list(tags), id=run_id(Path(folder)), resume="allow",
            dir=folder, mode=mode, job_type=job_type, settings=settings, reinit="finish_previous",
        )  # fmt: skip
        return StepLogger(run, folder, artifacts)

    try:
        return logger(mode)
    except Exception as error:  # any trouble with the service: the training is worth more than its dashboard
        rank_zero_warn(f"W&B is not reachable ({error}); logging offline, `wandb sync {folder}/wandb` sends it later.")
    try:
        return logger("offline")
    except Exception as error:  # W&B's own process has died
        rank_zero_warn(f"W&B does not run here ({error!r}); it gets nothing of {folder}.")
        return logger("disabled")


def log_evaluation(
    logger: WandbLogger, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Send an evaluation to W&B: means into the run's summary, a table of images with their values.

    Args:
        logger: of the evaluation.
        summary: as in `summary.json`.
        rows: one per image and method, as in `per_image.csv`.
        folder: holds METHOD/IMAGE.png.
    """
    import wandb

    run = logger.experiment
    for method, metrics in summary["methods"].items():
        for metric, value in metrics.items():
            run.summary[f"{method}/{metric}"] = value["mean"]
    for method, costs in summary.get("cost", {}).get("methods", {}).items():
        for name, value in costs.items():
            run.summary[f"{method}/{name}"] = value
    columns = ["picture", *rows[0]]
    table = wandb.Table(columns=columns)
    for row in rows:
        path = folder / row["method"] / f"{row['image']}.png"
        table.add_data(wandb.Image(str(path)) if path.is_file() else None, *row.values())
    run.log({"images": table})
    run.finish()

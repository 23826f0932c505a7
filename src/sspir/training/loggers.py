"""Loggers of a run's numbers: a JSON-lines file of our own, and W&B."""

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn
from pytorch_lightning.loggers import Logger, WandbLogger

from sspir.training.history import HEADER
from sspir.training.run import METRICS, is_first_process, run_id


class JsonLinesLogger(Logger):
    """The primary record: one line per logged step in `metrics.jsonl`, complete after every line.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write(json.dumps(HEADER) + "\n")
            file.write(json.dumps({"step": None if step is None else step + 1, **metrics}) + "\n")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds the resolved configuration."""


class StepLogger(WandbLogger):
    """A W&B run all of whose charts go over `step`, the updates of the generator that our own record counts too."""

    AXIS = "step"

    def __init__(self, run: Any) -> None:
        super().__init__(experiment=run)
        run.define_metric("*", step_metric=self.AXIS)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values, at a step where there is one: Lightning's number of the update that is being made, from 0."""
        super().log_metrics(metrics if step is None else {**metrics, self.AXIS: step + 1}, step)

    def prefer(self, metric: str, higher_is_better: bool | None) -> None:
        """Say which end of a metric is the good one, so that W&B's summary shows the best value."""
        if higher_is_better is not None:
            end = "max" if higher_is_better else "min"
            self.experiment.define_metric(metric, step_metric=self.AXIS, summary=end)


def wandb_logger(
    folder: str, project: str, group: str, name: str, tags: list[str], offline: str = "auto", job_type: str = "train"
) -> WandbLogger:
    """A W&B run that is offline without an account and never stops a training; on other ranks than the first, none.

    Args:
        folder: of the run; it holds the id, so that a resumed run goes on in W&B.
        project: of W&B.
        group: runs of one experiment.
        name: of the run.
        tags: of the run.
        job_type: "train" or "evaluate": W&B's dashboards group by it.
        offline: "auto" goes online where an API key is known, "yes" never, "no" insists.
    """
    if not is_first_process():
        return WandbLogger()  # opens nothing there
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("offline" if offline == "yes" else "online")
    if mode == "online" and offline == "auto" and not (os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False)):
        mode = "offline"
    settings = wandb.Settings(init_timeout=20, login_timeout=5, silent=True)
    Path(folder).mkdir(parents=True, exist_ok=True)

    def logger(mode: Literal["online", "offline", "disabled"]) -> WandbLogger:
        run = wandb.init(
            project=project, group=group, name=name, tags=list(tags), id=run_id(Path(folder)), resume="allow",
            dir=folder, mode=mode, job_type=job_type, settings=settings,
        )  # fmt: skip
        return StepLogger(run)

    try:
        return logger(mode)
    except Exception as error:  # any trouble with the service: the training is worth more than its dashboard
        rank_zero_warn(f"W&B is not reachable ({error}); logging offline, `wandb sync {folder}/wandb` sends it later.")
        return logger("offline")


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

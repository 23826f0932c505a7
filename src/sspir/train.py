"""From a configuration to a trained run folder."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torchmetrics import MetricCollection

from sspir.checkpoint import LAST, AtomicCheckpointIO, load_checkpoint, twin
from sspir.data.manifest import Manifest, difference, manifest_of
from sspir.errors import UserError
from sspir.loggers import METRICS
from sspir.models.attention_cache import shared_attention
from sspir.run import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    build_module,
    environment,
    find_checkpoint,
    refuse_another_configuration,
)

log = logging.getLogger(__name__)
SUMMARY = "summary.json"


def train(config: DictConfig, like: Path | None = None) -> dict[str, float]:
    """Train until `trainer.max_steps`, going on from the run folder's last checkpoint if there is one.

    Args:
        config: composed `conf/train.yaml`.
        like: folder of the run that is repeated; by default the run's own, where there is something to go on with.

    Returns:
        The last validation's metrics.

    Raises:
        UserError: the configuration asks for what cannot be done.
    """
    folder = Path(config.folder)
    summary = folder / SUMMARY
    if config.resume != "never":
        refuse_another_configuration(folder, config)
    if (done := _finished(summary, config)) is not None:
        log.info("%s is finished; nothing to do. Delete it, or raise trainer.max_steps, to train again.", folder)
        return done
    checkpoint = _resume_from(folder, config.resume)
    if checkpoint:
        _forget_after(folder / METRICS, load_checkpoint(Path(checkpoint))["global_step"])
    data = instantiate(config.data)
    _write_record(folder, config, manifest_of({"train": data.train, **data.validation}), like or folder)
    torch.set_float32_matmul_precision(config.matmul_precision)
    if config.threads:
        torch.set_num_threads(config.threads)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_without_adverts)

    module = build_module(config)
    trainer = instantiate(
        config.trainer,
        callbacks=[*_built(config.callbacks), _best_checkpoint(folder, module.metrics["val"], config.monitor)],
        logger=_built(config.logger),
        plugins=[AtomicCheckpointIO(config.keep_checkpoints)],
        default_root_dir=str(folder),
    )
    _introduce(trainer, module, config)
    _summarise_best(trainer, module)
    try:
        with shared_attention(module.backbone, remember=False):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        done = {"step": trainer.global_step, **metrics}
        if trainer.is_global_zero:
            write_atomically(summary, json.dumps(done, indent=2) + "\n")
        return done
    except SIGTERMException:
        log.warning("Stopped by SIGTERM; the same command goes on from %s.", folder / CHECKPOINTS)
        raise SystemExit(143) from None
    finally:
        _finish_wandb(trainer)


def _write_record(folder: Path, config: DictConfig, manifest: Manifest, like: Path) -> None:
    """Write what was asked for, and with what it is done; warn where a run goes on or is repeated with other photos.

    Raises:
        UserError: the folder takes no files.
    """
    before = json.loads((like / ENVIRONMENT).read_text()).get("data") if (like / ENVIRONMENT).is_file() else None
    if before and (words := difference(before, manifest)):
        log.warning("The photos are not those that %s was trained on: %s; it will come out differently.", like, words)
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))
        write_atomically(folder / ENVIRONMENT, json.dumps({**environment(), "data": manifest}, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"The run folder {folder} takes no files ({error.strerror}); make room, or name another by folder=FOLDER."
        ) from error


def _built(nodes: DictConfig) -> list[Any]:
    """What the named nodes describe; an experiment switches one off by setting it to null."""
    return [built for built in instantiate(nodes).values() if built is not None]


def _best_checkpoint(folder: Path, metrics: MetricCollection, monitor: str) -> ModelCheckpoint:
    """Keeps the checkpoint that validates best; the metric itself says whether that is the highest or the lowest."""
    known = {name.removeprefix("val/"): metric for name, metric in metrics.items()}
    if monitor not in known:
        raise UserError(f"monitor={monitor} is not validated; choose one of {', '.join(known)}, or add it to metric.")
    if known[monitor].higher_is_better is None:
        raise UserError(f"monitor={monitor} has an ideal in the middle; choose a metric with a direction.")
    mode = "max" if known[monitor].higher_is_better else "min"
    return ModelCheckpoint(
        folder / CHECKPOINTS, filename="best", monitor=f"val/{monitor}", mode=mode, enable_version_counter=False
    )


def _summarise_best(trainer: pl.Trainer, module: Any) -> None:
    """Tell W&B which end of each metric is the good one, so that its summaries show the best value."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            for metrics in module.metrics.values():
                for name, metric in metrics.items():
                    if metric.higher_is_better is not None:
                        logger.experiment.define_metric(name, summary="max" if metric.higher_is_better else "min")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _finished(summary: Path, config: DictConfig) -> dict[str, float] | None:
    """The summary of a run that has reached its last step."""
    if config.resume == "never" or not summary.is_file():
        return None
    done: dict[str, float] = json.loads(summary.read_text())
    return done if done["step"] >= config.trainer.max_steps else None


def _resume_from(folder: Path, resume: str) -> str | None:
    """Path of the checkpoint to go on from, None to start anew."""
    last = folder / CHECKPOINTS / LAST
    if resume not in ("auto", "must", "never"):
        if not (last.with_name(f"{resume}.ckpt")).is_file():
            raise UserError(f"resume={resume} is none of auto, must and never, nor a checkpoint in {last.parent}.")
        chosen = find_checkpoint(folder, resume)
        load_checkpoint(chosen)
        if chosen != last:
            twin(chosen, last)  # the steps after it are made again
        return str(last)
    if resume == "must" and not last.exists():
        raise UserError(f"resume=must, but there is no {last}; name the folder of a run, or use resume=auto.")
    return str(last) if resume != "never" and last.exists() else None


def _forget_after(metrics: Path, step: int) -> None:
    """Drop the record of steps that were made after the checkpoint and will be made again."""
    if metrics.is_file():
        lines = metrics.read_text().splitlines(keepends=True)
        write_atomically(metrics, "".join(line for line in lines if json.loads(line)["step"] < step))


def _introduce(trainer: pl.Trainer, module: Any, config: DictConfig) -> None:
    """Say in words what is trained, and the effective batch."""
    trained = sum(parameter.numel() for part in module.trainable().values() for parameter in part.parameters())
    total = sum(parameter.numel() for parameter in module.parameters())
    world, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    log.info("Training %s (%s) in %s", config.name, config.variant, config.folder)
    log.info("%.2f M parameters trained, %.2f M frozen", trained / 1e6, (total - trained) / 1e6)
    log.info(
        "An optimizer step sees %d images: %d per device x %d device(s) x %d accumulated",
        config.batch_size * world * accumulated, config.batch_size, world, accumulated,
    )  # fmt: skip


def _without_adverts(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def _finish_wandb(trainer: pl.Trainer) -> None:
    """End the W&B run, so that the next job of a multirun gets its own."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()

"""From a configuration to a trained run folder."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, open_dict
from pytorch_lightning.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from pytorch_lightning.loggers import Logger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torchmetrics import Metric

from sspir.config.arguments import require_arguments
from sspir.config.build import build, build_all, refusal
from sspir.config.sweep import name_variant
from sspir.data.manifest import Manifest, manifest_of
from sspir.errors import NotApplicableError, UserError
from sspir.files import NOT_APPLICABLE, write_text
from sspir.metrics.base import usable
from sspir.models.attention_processor import cpu_attention
from sspir.numbers import COUNT, SEED
from sspir.training.batches import Recount, interval_of, planned_steps, recount, require_batches, require_training
from sspir.training.callbacks import Choice
from sspir.training.checkpoint import LAST, AtomicCheckpointIO, glance, link_or_copy
from sspir.training.history import ROWS, is_validated
from sspir.training.loggers import end_runs, wandb_runs
from sspir.training.parts import require_mixed, require_own, require_pretrained, require_schedule, trained_weights
from sspir.training.quiet import without_false_alarms
from sspir.training.record import note, write_record
from sspir.training.resume import FROM_LAST, Start, finished, put_in_order, say_processes, starting_point
from sspir.training.run import CHECKPOINTS, SUMMARY, alone_in, build_module, is_first_process
from sspir.training.saved import SHIPPED, folder_of
from sspir.training.schedule import OtherSchedule, require_optimizer, require_partial, say_rate
from sspir.training.strategy import launch_forgotten, require_accelerator, require_processes, require_whole
from sspir.training.updates import require_finite
from sspir.training.warm_start import warm_start

log = logging.getLogger(__name__)


def train(config: DictConfig, like: Path | None = None, callbacks: Sequence[Callback] = ()) -> dict[str, float]:
    """Train until `trainer.max_steps`, going on from the run folder's last checkpoint if there is one.

    Args:
        config: composed `conf/train.yaml`.
        like: folder of the run that is repeated; by default the run's own, where there is something to go on with.
        callbacks: beside those of the configuration.

    Returns:
        What was logged of the last step, its validation's metrics among it.

    Raises:
        UserError: the configuration asks for what cannot be done.
    """
    SEED.require("seed", config.seed)
    COUNT.require("trainer.accumulate_grad_batches", config.trainer.get("accumulate_grad_batches", 1))
    require_arguments(config)
    require_training(config.trainer)
    require_partial(config)
    name_variant(config)
    if config.init and folder_of(config.init) == SHIPPED:
        config.init = f"shipped/{SHIPPED.name}"  # what `shipped` means changes with time
    folder = Path(config.folder)
    if (done := finished(folder, config)) is not None:
        return done
    require_accelerator(config.trainer)
    require_whole(config)
    with alone_in(folder), without_false_alarms(), launch_forgotten():
        return _train(folder, config, like or folder, callbacks)


def _train(folder: Path, config: DictConfig, like: Path, more: Sequence[Callback]) -> dict[str, float]:
    start = starting_point(folder, config)
    _leave_out_missing(config, start.checkpoint)
    data = build(config.data)
    manifest = manifest_of({"train": data.train, **data.validation})
    torch.set_float32_matmul_precision(config.matmul_precision)
    if config.threads:
        torch.set_num_threads(config.threads)
    module = _built_module(folder, config, manifest, like)
    require_mixed(module.backbone, str(config.trainer.precision))
    require_schedule(module)
    if not (start.checkpoint or config.init):
        require_pretrained(module.backbone)
    warm = {} if start.checkpoint else {"init": warm_start(module, config.init, config.init_skip)}
    trainer = _trainer(folder, config, module, data, manifest, more)
    _require_all(trainer, module, data, config, start)
    checkpoint = put_in_order(folder, start, config.resume)
    write_record(folder, config, manifest, like, bool(checkpoint), **warm)
    say_processes(folder, start.checkpoint, trainer.world_size)
    trainer.loggers = build_all("logger", config, Logger)
    _introduce(trainer, module, config)
    _tell_loggers(trainer, module.config, module.validation.names(data.validation_names))
    try:
        with _endings_told(folder, config):
            return _fitted(trainer, module, data, folder, config.monitor, checkpoint)
    finally:
        end_runs(trainer, folder, config.monitor)


def _trainer(
    folder: Path, config: DictConfig, module: Any, data: Any, manifest: Manifest, more: Sequence[Callback]
) -> Any:
    """Lightning's Trainer with all callbacks, but without loggers."""
    good_end = module.validation.good_end(config.monitor, data.validation_names)
    own = [_best_checkpoint(folder, config.monitor, good_end), OtherSchedule(), Recount(), Choice(config, manifest)]
    callbacks = [*own, *build_all("callbacks", config, Callback), *more]
    if not config.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    if not any(config.logger.values()):
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    return build(
        config.trainer,
        val_check_interval=interval_of(config.trainer),
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),  # not Lightning's
        logger=False,  # until the folder that they write into is in order
        plugins=[AtomicCheckpointIO(config.keep_checkpoints)],
        default_root_dir=str(folder),
    )


def _require_all(trainer: pl.Trainer, module: Any, data: Any, config: DictConfig, start: Start) -> None:
    """What a training needs beside its own parts, before its folder is touched."""
    require_processes(trainer)
    require_batches(trainer, data)
    if trainer.limit_val_batches:
        module.validation.require_measurable(data)
    require_optimizer(module, config.optimizer.get("_target_"), planned_steps(trainer, data))
    if start.checkpoint:
        known = glance(start.checkpoint)
        require_own(module, known)
        recount(known, trainer, data)
        say_rate(known["config"], config, start.step)


def _fitted(
    trainer: pl.Trainer, module: Any, data: Any, folder: Path, monitor: str, checkpoint: Path | None
) -> dict[str, float]:
    """Train to the end, and write what was logged of the last step."""
    with cpu_attention(module.backbone, trainer.strategy.root_device, remember=False):
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        if module.validated_at != trainer.global_step and data.validation and trainer.limit_val_batches:
            _validate_last_step(trainer, module, data)
    of_last_step = module.validated_at == trainer.global_step
    metrics = {
        name: value.item() for name, value in trainer.callback_metrics.items() if of_last_step or not is_validated(name)
    }
    done = {"step": trainer.global_step, **metrics}
    require_finite(folder, done, f"val/{monitor}")
    if trainer.is_global_zero:
        _keep_a_best(folder / CHECKPOINTS)
        write_text(folder / SUMMARY, json.dumps(done, indent=2) + "\n")
        value = done.get(f"val/{monitor}")
        told = "" if value is None else f", val/{monitor} {value:.4g}"
        log.info("%s is trained: %d steps%s.", folder, done["step"], told)
    return done


@contextmanager
def _endings_told(folder: Path, config: DictConfig) -> Iterator[None]:
    """Within, a stop ends the program with its status, and a full GPU is a sentence."""
    try:
        yield
    except (SIGTERMException, SystemExit) as stop:
        if not isinstance(stop, SIGTERMException) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise  # Lightning exits where Ctrl-C is pressed; this is another
        signal, status = ("SIGTERM", 143) if isinstance(stop, SIGTERMException) else ("Ctrl-C", 130)
        saved = (folder / CHECKPOINTS / LAST).is_file()
        by = "" if config.resume in FROM_LAST else "with resume=auto "  # its own word goes back, or starts anew
        goes_on = f"{by}the same command goes on from {folder / CHECKPOINTS}" if saved else "no step was saved"
        log.warning("Stopped by %s; %s.", signal, goes_on)
        raise SystemExit(status) from None
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU has no room for a step of {config.data.batch_size} images; lower batch_size (and raise "
            f"trainer.accumulate_grad_batches), or set module.gradient_checkpointing=true, backbone.dtype=bfloat16 or "
            f"backbone.lora; sspir doctor estimates what a step takes."
        ) from error


def _validate_last_step(trainer: pl.Trainer, module: Any, data: Any) -> None:
    """Do what a run lacks that was killed within its last validation: there is no step left to come to it by."""
    trainer.validate(module, data, verbose=False)
    trainer.state.fn, trainer.should_stop = TrainerFn.FITTING, True  # outside of a fit nothing is kept
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # a list
        if isinstance(callback, Checkpoint | EarlyStopping):
            callback.on_validation_end(trainer, module)


def _leave_out_missing(config: DictConfig, checkpoint: Path | None) -> None:
    """Leave out of a configuration the metrics that cannot be measured here, and say so.

    Raises:
        UserError: the run that goes on has measured one of them.
    """
    _, missing = usable(build(config.metric), "it compares whole folders; `sspir evaluate` measures it.")
    before = glance(checkpoint)["config"].get("metric", {}) if missing and checkpoint else {}
    for name, why in missing.items():
        if name in before:
            raise UserError(f"This run has measured {name} so far: {why}")
        log.warning("%s is not measured: %s", name, why)
        with open_dict(config):
            for metrics in (config.metric, config.module.metrics):  # one and the same, unless a record holds a copy
                metrics.pop(name, None)


def _built_module(folder: Path, config: DictConfig, manifest: Manifest, like: Path) -> Any:
    try:
        try:
            return build_module(config)
        except InstantiationException as error:
            raise refusal(error) from error
    except NotApplicableError as refused:  # noted for reports, unless there is a run
        if is_first_process() and not any((folder / CHECKPOINTS).glob("*.ckpt")):
            write_record(folder, config, manifest, like, False)
            write_text(folder / NOT_APPLICABLE, f"{refused}\n")
        raise


def _best_checkpoint(folder: Path, monitor: str, mode: str) -> ModelCheckpoint:
    """The callback that keeps the best checkpoint; it comes first, so that later checkpoints hold its state."""
    return ModelCheckpoint(
        folder / CHECKPOINTS, filename="best", monitor=f"val/{monitor}", mode=mode, enable_version_counter=False
    )


def _keep_a_best(checkpoints: Path) -> None:
    """Make the last checkpoint the best one if nothing was validated."""
    last, best = checkpoints / LAST, checkpoints / "best.ckpt"
    if last.is_file() and not best.is_file():
        link_or_copy(last, best)


def _tell_loggers(trainer: pl.Trainer, config: dict[str, Any], validated: Mapping[str, Metric]) -> None:
    """Hand the loggers the whole configuration, and W&B the good end of each metric."""
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    for run, row, (name, metric) in product(wandb_runs(trainer), ROWS, validated.items()):
        run.prefer(f"{row}/{name}", metric.higher_is_better)


def _introduce(trainer: pl.Trainer, module: Any, config: DictConfig) -> None:
    """Log the numbers of parameters, and the effective batch."""
    trained = sum(weight.numel() for weight in trained_weights(module).values() if weight.requires_grad)
    total = sum(parameter.numel() for parameter in module.parameters())
    if 0 < trainer.max_steps <= module.structure_steps:
        log.warning("All steps train the Processor's image alone: structure_steps is %d.", module.structure_steps)
    if module.schedule is not None and (alone := config.schedule.get("structure_steps")) and not module.structure_steps:
        log.warning("Nothing trains the Processor's image alone, for which the rate comes to 0 at step %d; set "
                    "module.structure_steps=0.", alone)  # fmt: skip
    world, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    images = config.data.batch_size * world * accumulated
    note(Path(config.folder), processes=world, images_per_step=images)
    log.info("Training %s (%s) in %s", config.name, config.variant, config.folder)
    log.info("%.2f M parameters trained, %.2f M frozen", trained / 1e6, (total - trained) / 1e6)
    log.info(
        "An optimizer step sees %d images: %d per device x %d device(s) x %d accumulated",
        images, config.data.batch_size, world, accumulated,
    )  # fmt: skip

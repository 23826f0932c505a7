"""Decide where a training starts: whether its folder holds the same run, and which settings may have changed."""

import json
import logging
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from sspir.config.trust import dotted, leaves, originals, present_record, read_record
from sspir.errors import UserError
from sspir.files import NOT_APPLICABLE
from sspir.moved import named
from sspir.training.checkpoint import LAST, VALIDATION_DUE, glance, link_or_copy, load_checkpoint
from sspir.training.history import cut_history
from sspir.training.replaced import keep_what_follows, set_aside, step_of
from sspir.training.run import CHECKPOINTS, CONFIG, METRICS, SUMMARY, find_checkpoint, is_first_process

log = logging.getLogger(__name__)

FROM_LAST = ("auto", "must")  # words for `resume`; others but "never" name a checkpoint

# Patterns of dotted settings by what a change does to a run that goes on; all others make it another run. Settings that
# stand below `data` and `module` too are copies.
_NOTHING = (  # to what is trained: how far, how fast and how loudly it goes, and what is looked at
    "resume", "folder", "sweep", "ablations", "threads", "workers", "degrade_in_workers", "capture", "checkpoint_every",
    "keep_checkpoints", "keep_every", "monitor", "logger.*", "metric.*", "metrics.*", "sampler.*",
    "dataset.validation*",
    *(f"callbacks.{name}*" for name in ("progress", "pace", "rate", "panels", "last", "milestones", "end", "nan")),
    "callbacks.early_stopping*",
    *(f"trainer.{name}*" for name in ("accelerator", "strategy", "enable_", "log_", "val_", "check_val", "limit_val")),
    "trainer.max_*", "trainer.min_*", "data.max_broken", "*.cache", "*.cache_gb", "*.device", "captioner.batch_size",
    "captioner.concurrency", "captioner.timeout", "captioner.retries",
    # of these the photos are compared
    "dataset.*root", "dataset.*.roots", "dataset.*.roots.*", "dataset.*.lq", "dataset.*.hq", "dataset.*.folder",
)  # fmt: skip
_SOMETHING = (  # which is said: the result is that of neither setting alone
    "trainer.*", "callbacks.*", "schedule*", "matmul_precision", "gradient_checkpointing", "*.path", "*.subfolder",
    "*.captions", "backbone.unet.lora",
)  # fmt: skip
_OTHERS = "So far %s was trained with other settings: %s."
_ENDS = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "callbacks.early_stopping*")


def finished(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """The summary of a run that has come to the end that the configuration sets, as is said; None where more is to do.

    Args:
        folder: of the run.
        config: of the training that is asked for.

    Raises:
        UserError: it was another run, made more steps or did not validate `monitor`, or there is no checkpoint of the
            name that `resume` is.
    """
    if config.resume == "never" or not (folder / SUMMARY).is_file():
        return None
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    if config.resume not in FROM_LAST and _goes_back(folder, config, summary["step"]):
        return None
    long_enough = 0 < config.trainer.max_steps <= summary["step"]
    if not long_enough:  # it may have been ended by something else, such as early stopping
        recorded, now = _flat(_record(folder)), _flat(config)
        changed = any(_matches(key, _ENDS) for key in _differing(recorded, now))
        if not recorded or changed or not (folder / CHECKPOINTS / LAST).is_file():
            return None
    changes = _changes(folder, _recorded(folder, folder / CHECKPOINTS / LAST), config)
    _require_ahead(folder, summary["step"], config)
    monitor = config.monitor
    validated = {key.removeprefix("val/") for key in summary if key.startswith("val/")}
    if validated and monitor not in validated and monitor != _record(folder).get("monitor", monitor):
        instead = "leave out val/" if monitor.startswith("val/") else f"name a metric that {folder / SUMMARY} has"
        raise UserError(f"{folder} is finished, and monitor={monitor} was not validated; {instead}.")
    again = "Delete it, or raise trainer.max_steps, to train again."
    if changes:
        log.warning("%s is finished, and was trained with other settings: %s. %s", folder, changes, again)
    else:
        log.info("%s is finished; nothing to do. %s", folder, again)
    return summary


class Start(NamedTuple):
    """Where a training starts.

    Attributes:
        checkpoint: that it goes on from; None to start anew.
        step: of it.
        due: whether its validation is still to come.
    """

    checkpoint: Path | None = None
    step: int = 0
    due: bool = False


def starting_point(folder: Path, config: DictConfig) -> Start:
    """Where a training starts; its folder stays as it is until `put_in_order`.

    A schedule that is to hold keeps its length in `config`.

    Args:
        folder: of the run, which this process alone trains in.
        config: of the training.

    Raises:
        UserError: there is no such checkpoint, it is damaged, another run's, or beyond `trainer.max_steps`.
    """
    checkpoint = None if config.resume == "never" else _chosen(folder, config.resume)
    if not checkpoint:
        return Start()
    before = _recorded(folder, checkpoint)
    _hold(config, before)
    if changes := _changes(folder, before, config):
        log.warning(_OTHERS, folder, changes)
    state = load_checkpoint(checkpoint)
    step, due = state["global_step"], state.get(VALIDATION_DUE, False) and config.trainer.limit_val_batches != 0
    _require_ahead(checkpoint, step, config)
    return Start(checkpoint, step, due)


def put_in_order(folder: Path, start: Start, resume: str) -> Path | None:
    """Set aside what a start replaces, and drop lines of steps that will be made again.

    Args:
        folder: of the run.
        start: whose training has been checked: nothing of a run is taken apart for one that is refused.
        resume: of the configuration.

    Returns:
        The checkpoint to load, if any.
    """
    if is_first_process():
        if resume == "never":
            set_aside(folder)
        elif start.checkpoint and start.checkpoint.name != LAST:
            keep_what_follows(folder, start.checkpoint, start.step)
        _tidy(folder, start)
    return start.checkpoint and start.checkpoint.with_name(LAST)


def _goes_back(folder: Path, config: DictConfig, end: int) -> bool:
    """Whether a finished run goes on from a checkpoint of another step: not again where that is what it has done."""
    if step_of(_named(folder, config.resume)) == end:
        return False
    before, now = _record(folder), config.copy()
    _hold(now, before)
    changed = [key for key in _differing(_flat(before), _flat(now)) if not _matches(key, _NOTHING)]
    return bool(changed) or before.get("resume") != config.resume


def _chosen(folder: Path, resume: str) -> Path | None:
    last = folder / CHECKPOINTS / LAST
    if resume not in FROM_LAST:
        return _named(folder, resume)
    if resume == "must" and not last.exists():
        raise UserError(f"resume=must, but there is no {last}; name the folder of a run, or use resume=auto.")
    return last if last.exists() else None


def _named(folder: Path, name: str) -> Path:
    with suppress(UserError):
        if Path(name).name == name:  # no path: what is trained on is written beside it
            return find_checkpoint(folder, name)
    raise UserError(f"resume={name} is none of auto, must and never, nor a checkpoint in {folder / CHECKPOINTS}.")


def _tidy(folder: Path, start: Start) -> None:
    """Make a checkpoint the last one; drop files that a kill has torn, and what of the log will be made again."""
    for old in (folder / SUMMARY, folder / NOT_APPLICABLE, *(folder / CHECKPOINTS).glob(".*")):
        old.unlink(missing_ok=True)
    if start.checkpoint and start.checkpoint.name != LAST:
        link_or_copy(start.checkpoint, start.checkpoint.with_name(LAST))
    metrics = folder / METRICS
    if metrics.is_file():
        cut_history(metrics, start.step, start.due)


def _recorded(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """The configuration of a checkpoint, else the one of its run folder."""
    with suppress(Exception):  # damage is told where all of it is loaded
        return present_record(glance(checkpoint)["config"])
    return _record(folder)


def _record(folder: Path) -> dict[str, Any]:
    record: Any = read_record(folder / CONFIG) if (folder / CONFIG).is_file() else OmegaConf.create()
    return OmegaConf.to_container(record)  # type: ignore[return-value]  # a mapping


def _require_ahead(place: Path, step: int, config: DictConfig) -> None:
    """Refuse fewer steps than a checkpoint or a run has made."""
    if 0 < config.trainer.max_steps < step:
        raise UserError(
            f"{place} is at step {step} already, beyond trainer.max_steps={config.trainer.max_steps}; ask for "
            f"more steps, or start anew with resume=never."
        )


def _changes(folder: Path, before: dict[str, Any], config: DictConfig) -> str:
    """Refuse a run folder of another configuration; tells changed settings that change the result, "" where none does.

    Raises:
        UserError: the configurations differ in what decides the result.
    """
    old, new = _flat(before), _flat(config)
    differing = [key for key in _differing(old, new) if not _matches(key, _NOTHING)] if old else []
    told = [f"{key} was {old.get(key)}, now {new.get(key)}" for key in differing]
    others = [text for key, text in zip(differing, told, strict=True) if not _matches(key, _SOMETHING)]
    if others:
        rest = f", and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"{folder} holds a run with another configuration ({others[0]}{rest}); name this one by variant=NAME or "
            f"folder=FOLDER, or start anew with resume=never."
        )
    return "; ".join(told)


def say_processes(folder: Path, checkpoint: Path | None, processes: int) -> None:
    """Warn where a run goes on with another number of processes, which no setting tells."""
    before = glance(checkpoint).get("processes", processes) if checkpoint else processes
    if before != processes:
        log.warning(_OTHERS, folder, f"processes was {before}, now {processes}")


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted settings that are not the same; copies of such are left out, and younger ones that are switched off."""
    added = new.keys() - old.keys()
    younger = {key for key in added if new[key] in (None, [], {}) or _weightless(key, old, new)}
    keys = sorted(key for key in (old.keys() | new.keys()) - younger if old.get(key) != new.get(key))
    return [key for key in keys if not any(source in keys for source in originals(key))]


def _weightless(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a setting belongs to something that was not there before, and has a weight of 0."""
    parts = key.split(".")
    weights = (".".join((*parts[:length], "weight")) for length in range(1, len(parts)))
    return any(weight not in old and new.get(weight) == 0 for weight in weights)


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (key, *originals(key)) for pattern in patterns)


def _flat(node: Any) -> dict[str, Any]:
    """The leaves of a configuration by their dotted path, classes by their present names."""
    plain = named(OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node)
    return {dotted(key): leaf for key, leaf in leaves(plain) if key}


def _hold(config: DictConfig, before: dict[str, Any]) -> None:
    """A schedule that holds its last rate keeps the length it had, where that follows `trainer.max_steps`."""
    schedule, old = config.schedule, before.get("schedule")
    if not schedule or not old or schedule.get("after") != "hold":
        return
    length = old.get("num_training_steps", 0)
    if OmegaConf.is_interpolation(schedule, "num_training_steps") and length > 0:  # -1 was allowed once
        schedule.num_training_steps = length

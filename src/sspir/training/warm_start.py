"""Begin a training with the weights of another model, under another configuration."""

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sspir.errors import UserError
from sspir.models.lora import base_names
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.checkpoint import close, marks_of
from sspir.training.run import CONFIG, load_run
from sspir.training.saved import INDEX, folder_of, load_saved, weights_id

log = logging.getLogger(__name__)
_SHOWN = 8


def warm_start(module: Any, source: str | None, skip: Sequence[str] = ()) -> dict[str, Any] | None:
    """Give a module the weights of another model, where name and shape are the same.

    Adapters begin anew on what the other model computes, its own adapters included. Where that is not what the
    configuration builds, the module's checkpoints will hold it.

    Args:
        module: a `RestorationModule`, before it is trained.
        source: folder of a run, whose averaged weights are taken, or of a saved or exported pipeline, or the name of
            one that comes along, see `folder_of`; None leaves the module as it is.
        skip: patterns such as "backbone.unet_pixel.*" of weights that may begin anew here, may be left over there, or
            may differ where they are frozen.

    Returns:
        What is to be recorded: where the weights came from, sixteen digits of their hash, and what was left out; None
        without a model.

    Raises:
        UserError: there is no such model, or something does not fit that `skip` does not name.
    """
    if not source:
        if skip:
            raise UserError(
                "init_skip names weights of another model, and init names none; give init=RUN or init_skip=[]."
            )
        return None
    pipeline = _pipeline(folder_of(source))
    parts = {**{f"backbone.{name}": part for name, part in pipeline.backbone.named_children()}, **pipeline.components}
    frozen = module.frozen_by_setting()
    theirs = _weights({name: part for name, part in parts.items() if name.startswith("backbone.") or name == "refine"})
    theirs = {key: value for key, value in theirs.items() if not key.startswith(tuple(f"{name}." for name in frozen))}
    ours = _weights(module.trainable())
    faults = _faults(ours, theirs, frozen, parts)
    for pattern in skip:
        if not any(fnmatchcase(key, pattern) for key in (*ours, *theirs, *frozen)):
            known = ", ".join([*(f"{name}.*" for name in module.trainable()), *frozen])
            raise UserError(f"init_skip: {pattern} fits nothing; there are {known}.")
    left_out = [key for key in faults if any(fnmatchcase(key, pattern) for pattern in skip)]
    if refused := [f"{key} ({what})" for key, what in faults.items() if key not in left_out]:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise UserError(
            f"init={source} does not fit this configuration: {', '.join(refused[:_SHOWN])}{more}; change the "
            f"configuration, or name what need not fit by init_skip=[PATTERN,...]."
        )
    taken = {key for key in ours if key in theirs and key not in faults}
    for name, part in module.trainable().items():
        base = taken & {f"{name}.{_plain(key)}" for key in base_names(part)}
        if not base or (not module.backbone.train_unet and all(close(ours[key], theirs[key]) for key in base)):
            taken -= base
        else:
            module.brought.add(name)
            log.info("Checkpoints hold all of %s, as it comes from %s.", name, source)
    with torch.no_grad():
        for key in taken:
            ours[key].copy_(theirs[key])
    log.info("Began with %d of %d tensors of weights from %s.", len(taken), len(theirs), source)
    return {"source": source, "weights": weights_id(pipeline), "left_out": left_out}


def _pipeline(folder: Path) -> RestorationPipeline:
    if (folder / CONFIG).is_file():
        pipeline: RestorationPipeline = load_run(folder).pipeline
        return pipeline
    if (folder / INDEX).is_file():
        return load_saved(folder)
    raise UserError(
        f"init={folder} holds no weights: name the folder of a run (with {CONFIG}), of a pipeline (with {INDEX}), or "
        f"shipped."
    )


def _faults(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], frozen: Mapping[str, nn.Module], parts: Mapping[str, Any]
) -> dict[str, str]:
    """Weight, or setting of a frozen part, that is not as in the other model -> what is wrong with it."""
    faults = {
        key: f"{_shape(theirs.get(key))} there, {_shape(ours.get(key))} here"
        for key in sorted(ours.keys() | theirs.keys())
        if _shape(theirs.get(key)) != _shape(ours.get(key))
    }
    for name, mark in marks_of(frozen).items():
        part = parts.get(name)
        theirs_of = marks_of({name: part})[name] if isinstance(part, nn.Module) else mark[:0]
        if theirs_of.shape != mark.shape or not close(theirs_of, mark):
            faults[name] = "frozen, with other weights"
    return faults


def _weights(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Weights by the names they have without adapters."""
    return {
        f"{name}.{_plain(key)}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
        if "lora_" not in key
    }


def _plain(key: str) -> str:
    return key.replace(".base_layer.", ".")


def _shape(weight: Tensor | None) -> str:
    return "absent" if weight is None else str(tuple(weight.shape))

"""The model that the flags of `sspir restore` name, and how they have it restore."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sspir.commands.restore_flags import refuse_for_peer, size_asked, without_diffusion
from sspir.errors import UserError

if TYPE_CHECKING:
    from sspir.restoring.peer import PeerPipeline
    from sspir.restoring.runner import Request
    from sspir.sampling.pipeline import RestorationPipeline
    from sspir.sampling.sampler import Sampler

SMALL = "shipped"
"""Word for the small model that comes along, which is loaded where no weights are named."""


def models_of(options: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """The flags of each model that they name, by a short name; a single one is called "", and has --out for itself.

    Raises:
        UserError: a model is named twice or is not there, or settings of diffusion are for none of them.
    """
    given: list[str] = options.weights or [SMALL]
    places = [whole_path(text) for text in given]
    if twice := next((text for text, place in zip(given, places, strict=True) if places.count(place) > 1), None):
        raise UserError(f"--weights {twice} is given twice; name each model once.")
    models = {}
    for name, text in zip(_short_names(given), given, strict=True):
        weights = None if text == SMALL and not Path(text).exists() else text
        out = options.out / name if len(given) > 1 else options.out
        models[name] = argparse.Namespace(**{**vars(options), "weights": weights, "out": out})
    if len(models) == 1:
        models = {"": next(iter(models.values()))}
    are_peers = [_means_peer(model.weights) for model in models.values()]
    for (name, model), is_peer in zip(models.items(), are_peers, strict=True):
        if is_peer and not all(are_peers):
            models[name] = without_diffusion(model)
        elif is_peer:
            refuse_for_peer(model)  # before anything is loaded
    if len(models) > 1:
        _require_there(models.values())
        for model in models.values():
            _leave_out_of_others(model)
    return models


def _short_names(given: Sequence[str]) -> list[str]:
    """A name for each model that no other has: of its folder or file, with as many folders before as that takes."""
    paths = [Path(text).expanduser() for text in given]
    paths = [path.resolve() if path.exists() else path for path in paths]
    names = [path.name if path.is_dir() else path.stem for path in paths]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        if len({name.lower() for name in names}) == len(names) and "sheets" not in names:
            break
        names = ["-".join(path.parts[-depth:]).strip("/-") for path in paths]
    return names


def _require_there(models: Iterable[argparse.Namespace]) -> None:
    """Refuse all models that are not there, together, before the first works for hours."""
    from sspir.peers import find_peer
    from sspir.weights.load import require_weights

    refused = []
    for model in models:
        try:
            if _means_peer(model.weights):
                find_peer(model.weights)
            elif model.weights:
                require_weights(model.weights)
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("\n".join(refused))


def _leave_out_of_others(model: argparse.Namespace) -> None:
    """Leave out what only another of several models has a use for."""
    from sspir.training.saved import SHIPPED, folder_of
    from sspir.weights.load import is_run, is_saved

    folder = folder_of(model.weights or SHIPPED)
    if not is_run(folder):
        model.checkpoint = "last"
    if is_run(folder) or is_saved(folder):
        model.stable_diffusion = model.clip = None


def _means_peer(weights: str | None) -> bool:
    if weights is None or Path(weights).is_dir():  # known before anything is imported
        return False
    from sspir.peers import means_peer

    return means_peer(weights)


def load(options: argparse.Namespace) -> "RestorationPipeline | PeerPipeline":
    """The model that the flags name, on their device: a pipeline, or somebody else's network in its place.

    Args:
        options: of one model, see `models_of`: its `weights` is a name, or None for the small model.
    """
    if not _means_peer(options.weights):
        return _pipeline(options)

    from sspir.memory import choose_device
    from sspir.peers import find_peer
    from sspir.restoring.peer import PeerPipeline

    most = options.max_output_pixels * 1e6 or float("inf")
    return PeerPipeline(find_peer(options.weights), choose_device(options.device), most)


def request_of(options: argparse.Namespace, pipeline: "RestorationPipeline | PeerPipeline") -> "Request":
    """How the flags have photos restored.

    Args:
        options: see `load`.
        pipeline: of `load`.

    Raises:
        UserError: a setting means nothing to the model.
    """
    from sspir.peers.base import identity
    from sspir.restoring.peer import PeerPipeline, Tiles
    from sspir.restoring.runner import Request

    if isinstance(pipeline, PeerPipeline):
        refuse_for_peer(options)
        tile = Tiles.tile if options.tile in (None, "auto") else None if options.tile == "off" else options.tile
        size = size_asked(options, pipeline.peer.scale)
        made_of = f"{whole_path(options.weights)} {identity(pipeline.peer)}"
        return Request(Tiles(tile), size, compare=options.compare, weights=made_of, drop_gps=options.drop_gps)

    from sspir.training.saved import SHIPPED
    from sspir.weights.load import weights_time

    settings = _settings(options, pipeline)
    settings.build(pipeline.scheduler)  # trouble with the settings is not the photos'
    weights = options.weights or SHIPPED
    return Request(
        settings,
        size_asked(options, pipeline.config.scale),
        options.seed,
        options.samples,
        options.compare,
        options.dtype,
        ", ".join([f"{whole_path(weights)} of {weights_time(weights)}", *_parts(options)]),
        options.captioner_input,
        options.drop_gps,
    )


def _parts(options: argparse.Namespace) -> list[str]:
    """What of a model is chosen beside its folder, for the record: another choice is another model."""
    chosen: dict[str, str | None] = {"checkpoint": options.checkpoint}
    for name, part in (("stable diffusion", options.stable_diffusion), ("clip", options.clip)):
        chosen[name] = part and whole_path(part)
    return [f"{name} {value}" for name, value in chosen.items() if value not in (None, "last")]


def whole_path(weights: str | Path) -> str:
    """Weights as a record names them: a file or folder by its place, which is one from every current folder."""
    path = Path(weights).expanduser()
    return str(path.resolve()) if path.exists() else str(weights)


def _pipeline(options: argparse.Namespace) -> "RestorationPipeline":
    """The pipeline with the captioner, on the device and in the type that the flags name."""
    import torch

    from sspir.config.build import build_captioner
    from sspir.config.compose import load_choice
    from sspir.memory import choose_device
    from sspir.training.saved import SHIPPED
    from sspir.weights.load import load_pipeline

    captioner = build_captioner(load_choice("captioner", options.captioner)) if options.captioner else None
    weights = options.weights or SHIPPED
    pipeline = load_pipeline(weights, options.checkpoint, options.stable_diffusion, options.clip, captioner)
    if options.captioner_input == "processor" and not pipeline.backbone.processor.predicts_image:
        raise UserError(f"{weights} has no Processor that predicts images; use --captioner-input restored.")
    try:
        pipeline.to(choose_device(options.device))
    except torch.OutOfMemoryError as error:
        raise UserError(f"The device {options.device!r} has no room for the networks; try --device cpu.") from error
    pipeline.max_output_pixels = options.max_output_pixels * 1e6 or float("inf")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.in_dtype(options.dtype)
    return pipeline.compiled() if options.compile else pipeline


def _settings(options: argparse.Namespace, pipeline: "RestorationPipeline") -> "Sampler":
    """The settings of the model's own sampler, changed by the flags."""
    changes: dict[str, Any] = {}
    if options.sampler:
        preset = _preset(options.sampler)
        changes |= {name: getattr(preset, name) for name in preset.OF_THE_SOLVER}
    if options.colour:
        changes["colour"], changes["colour_strength"] = options.colour
    if options.start:
        changes["start"] = None if options.start == "noise" else options.start
    if options.tile:
        changes["tile"] = None if options.tile == "off" else options.tile
    flags = {"steps": "steps", "guidance": "guidance", "negative": "negative_caption", "fidelity": "fidelity"}
    changes |= {field: getattr(options, flag) for flag, field in flags.items() if getattr(options, flag) is not None}
    if options.samples > 1 and not pipeline.config.noised:
        raise UserError("--samples: This model adds no noise, so that all would be the same picture; leave it out.")
    try:
        return pipeline.settings(**changes)
    except UserError as error:
        given = [flag for flag in flags if getattr(options, flag) is not None]
        refused = [f"--{flag}: " for flag in given if f" {flags[flag]}" in str(error)]
        by_solver = [f"--sampler {options.sampler}: "] if options.sampler else []
        raise UserError(f"{[*refused, *by_solver, ''][0]}{error}") from error


def _preset(name: str) -> "Sampler":
    """The settings that --sampler names.

    Raises:
        UserError: it names none.
    """
    from sspir.config.build import build
    from sspir.config.compose import choices, load_choice
    from sspir.sampling.sampler import Sampler

    preset = build(load_choice("sampler", name))
    if not isinstance(preset, Sampler):
        known = ", ".join(choices("sampler"))
        raise UserError(
            f"--sampler {name} is no sspir.sampling.Sampler; correct its _target_, or choose one of {known}."
        )
    return preset

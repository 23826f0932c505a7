"""Check records and pipelines of strangers: they may name networks and settings, but run no code of their choice."""

import json
import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from sspir.captioners.endpoint import EndpointCaptioner
from sspir.config import outside
from sspir.config.kinds import KINDS, SAVED, Key, fits, kind_of
from sspir.errors import UserError
from sspir.moved import present_config

log = logging.getLogger(__name__)

_CODE = (".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HOOKS = {"auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation"}  # modules, kernels of the hub
# To another setting, or plain text: none reads this machine, or becomes another node as a setting is changed
_REFERENCE = re.compile(r"\$\{(?:[\w.]+|oc\.select: *[\w.]+ *, *[\w./-]+ *)\}")


def read_record(path: Path, may_refer: bool = False) -> DictConfig:
    """The configuration that a training recorded, in today's settings; nothing is filled in from this machine.

    Args:
        path: of its file.
        may_refer: to other settings of its own.

    Raises:
        UserError: it cannot be read, or refers to something else, such as an environment variable.
    """
    try:
        record = OmegaConf.load(path)
    except Exception as error:  # the disk's, YAML's or OmegaConf's
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); copy the run again.") from error
    if not isinstance(record, DictConfig):
        raise UserError(f"{path} is no configuration of a training; copy the run again.")
    _require_literal(record, path, may_refer)
    return OmegaConf.create(present_record(OmegaConf.to_container(record)))  # type: ignore[arg-type]  # a mapping


def present_record(record: dict[str, Any]) -> dict[str, Any]:
    """What a training has recorded, with today's settings: `init: shipped` is of the time of a single such model."""
    return {**present_config(record), **({"init": "shipped/tiny"} if record.get("init") == "shipped" else {})}


def composed(config: DictConfig) -> DictConfig:
    """A composed configuration with its references to other settings; all else is filled in."""
    return OmegaConf.create(_filled(OmegaConf.to_container(config), OmegaConf.to_container(config, resolve=True)))


def _filled(node: Any, resolved: Any, key: Any = None) -> Any:
    if isinstance(node, dict):
        return {name: _filled(child, resolved[name], name) for name, child in node.items()}
    if isinstance(node, list):
        return [_filled(child, value) for child, value in zip(node, resolved, strict=True)]
    return resolved if key == "_target_" or _reads_more(node) else node


def _reads_more(value: Any) -> bool:
    """Whether a value refers to more than other settings."""
    return str(value).count("${") > len(_REFERENCE.findall(str(value)))


def check_record(record: Any, path: Path, own: Collection[Any] = ()) -> None:
    """Refuse a record that names anything but what a training is made of, before anything is made.

    Args:
        record: a configuration, or a part of one below its own name.
        path: of its file, for the message.
        own: targets of the user's own configuration, which may be anything.

    Raises:
        UserError: a `_target_` is no class or function that belongs there, or a value refers to something.
    """
    _require_literal(record, path)
    for key, target in targets(record):
        if target not in own and not fits(target, kind_of(key)):
            raise UserError(
                f"{path} is not loaded: its {dotted(key)} names {target}, which does not belong there and would run; "
                f"if it is your own code, name its folder in {outside.VARIABLE}."
            )


def foresee_refusal(config: DictConfig, path: Path) -> None:
    """Warn at a training's start where its own record, for this file, will be refused, as of what is installed."""
    try:
        check_record(OmegaConf.to_container(config, resolve=True), path)
    except UserError as refused:
        log.warning(
            "This run can be trained, but not loaded to restore, evaluate or repeat it: %s From a class that is "
            "installed derive one of your own.", refused,
        )  # fmt: skip


def check_places(record: DictConfig, path: Path, changes: Collection[str]) -> None:
    """Refuse a record that would have photos sent somewhere, or write anywhere but in its run's folder.

    Args:
        record: that `check_record` has let pass.
        path: of its file, for the message.
        changes: what the user says on the command line, key=value; an address of theirs is taken.

    Raises:
        UserError: it names another place.
    """
    for key, target in targets(record):
        made = get_object(target) if kind_of(key) is KINDS["captioner"] else None
        sends = isinstance(made, type) and issubclass(made, EndpointCaptioner)
        if sends and not any(change.startswith("captioner.url=") for change in changes):
            raise UserError(
                f"{path} is not repeated: its {dotted(key)} would send the photos to the address that stands there; "
                f"give the address yourself by captioner.url=URL."
            )
    folder = str(record.folder)
    for key, value in leaves(record):
        if key[0] not in ("callbacks", "logger") or not isinstance(value, str):
            continue
        inside = f"{value}/".startswith(f"{folder}/")
        leads_away = key[-1] in ("folder", "dirpath", "save_dir") or value.startswith(("/", "~"))
        if ".." in Path(value).parts or (leads_away and not inside):
            raise UserError(
                f"{path} is not repeated: its {dotted(key)} is {value}, outside of the run's folder {folder}; write a "
                f"place in that folder there."
            )


def check_pipeline(folder: Path) -> None:
    """Refuse a saved pipeline that brings code or pickled weights, or names classes that are no parts of pipelines.

    Raises:
        UserError: it does.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix in _CODE:
            raise UserError(f"{file} can run code; a saved pipeline holds .safetensors and .json: save it again so.")
        if file.name.endswith(("config.json", "model_index.json")):
            settings = {name for key, _ in leaves(json.loads(file.read_text(encoding="utf-8"))) for name in key}
            if found := settings & _HOOKS:
                raise UserError(f"{file} asks for code by its {min(found)}; take that out if you trust the pipeline.")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    for part, named in index.items():
        if isinstance(named, list) and named != [None, None] and not fits(".".join(map(str, named)), SAVED):
            raise UserError(
                f"{folder} is not loaded: its {part} is {'.'.join(map(str, named))}, which is no part of a pipeline by "
                f"sspir, diffusers or transformers; if it is your own code, name its folder in {outside.VARIABLE}."
            )


def targets(node: Any) -> Iterator[tuple[Key, Any]]:
    """Place and value of every `_target_` of a configuration."""
    return ((path, found["_target_"]) for path, found in nodes(node))


def nodes(node: Any, path: Key = ()) -> Iterator[tuple[Key, dict[Any, Any]]]:
    """Place and content of every node of a configuration that has a `_target_`, in lists and below others too."""
    children = _children(node)
    if "_target_" in children:
        yield path, children
    for key, child in children.items():
        yield from nodes(child, (*path, key))


def _require_literal(record: Any, path: Path, may_refer: bool = False) -> None:
    for key, value in leaves(record):
        literal = key if may_refer and key[-1:] != ("_target_",) else (*key, value)
        if any("${" in str(text) for text in literal) or _reads_more(value):
            raise UserError(
                f"{path} is not loaded: its {dotted(key)} is {value}, which would be filled in from this machine; "
                f"write the value itself there if you trust the run."
            )


def leaves(node: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Place and value of every leaf of a configuration, with nothing filled in; an empty mapping or list is a leaf."""
    children = _children(node)
    if not children:
        yield path, node
    for key, child in children.items():
        yield from leaves(child, (*path, key))


def _children(node: Any) -> dict[Any, Any]:
    """By key or number, with nothing filled in."""
    plain = OmegaConf.to_container(node) if isinstance(node, DictConfig) else node
    return plain if isinstance(plain, dict) else dict(enumerate(plain)) if isinstance(plain, list) else {}


def dotted(key: Key) -> str:
    """A place as text: "dataset.train.roots.0"."""
    return ".".join(map(str, key))


def originals(key: str) -> tuple[str, ...]:
    """The settings that a setting may copy: `data.train.root` is a copy of `dataset.train.root`."""
    top, _, rest = key.partition(".")
    return (rest, f"dataset.{rest}") if top in ("data", "module") else ()

"""The settings of a configuration's nodes, held against what their classes and functions take, before any work."""

from collections.abc import Iterator
from inspect import Parameter, signature
from types import UnionType
from typing import Any, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from sspir.config.sentence import unknown
from sspir.errors import UserError

NUMBERS = {"int", "float", "bool"}


def require_arguments(config: DictConfig) -> None:
    """Refuse settings that a `_target_` does not take, and words where it takes numbers.

    What cannot be imported, and what takes any setting, is left to its own constructor.

    Raises:
        UserError: with a line for each such setting.
    """
    nodes = _nodes(OmegaConf.to_container(config))  # what is interpolated is judged where it stands
    faults = [_fault(key, name, value, node["_target_"]) for key, node in nodes for name, value in node.items()]
    if found := list(filter(None, faults)):
        raise UserError("\n".join(found))


def _nodes(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, by its dotted key."""
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        yield key, node
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in below:
        yield from _nodes(child, f"{key}.{name}".removeprefix("."))


def _fault(key: str, name: str, value: Any, target: str) -> str:
    """What is wrong with one setting; nothing where that cannot be told."""
    try:
        parameters = signature(get_object(target)).parameters
    except Exception:  # whatever importing has raised: the constructor will say it
        return ""
    if name.startswith("_") or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values()):
        return ""
    if name not in parameters:
        return unknown(f"{key}.{name}", list(parameters), more=False)
    interpolated = isinstance(value, str) and "${" in value
    if isinstance(value, str | list | dict) and not interpolated and _takes_numbers_alone(parameters[name].annotation):
        return f"{key}.{name}: {value!r} is no number."
    return ""


def _takes_numbers_alone(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    names = {getattr(kind, "__name__", str(kind)) for kind in kinds}
    return bool(names & NUMBERS) and names <= NUMBERS | {"NoneType", "Tensor"}

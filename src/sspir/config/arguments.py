"""The settings of a configuration's nodes, held against what their classes and functions take, before any work."""

from collections.abc import Iterator
from inspect import Parameter, signature
from pkgutil import resolve_name
from types import UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from sspir.config.sentence import unknown
from sspir.config.trust import dotted, nodes
from sspir.errors import UserError

NUMBERS = {"int", "float", "bool"}
GROUPS = {"callbacks": True, "logger": True, "metric": False}  # of nodes by name -> whether null switches one off


def require_arguments(config: DictConfig) -> None:
    """Refuse settings that a `_target_` does not take, words where it takes numbers, and values in place of a node.

    What cannot be imported, and a name that a class takes among `**settings`, is left to the constructor.

    Raises:
        UserError: with a line for each such setting.
    """
    container = OmegaConf.to_container(config)  # what is interpolated is judged where it stands
    assert isinstance(container, dict)
    made = [(dotted(path), node) for path, node in nodes(container) if isinstance(node["_target_"], str)]
    faults = [*_values(container), *(fault for key, node in made for fault in _faults(key, node))]
    if faults:
        raise UserError("\n".join(faults))


def _values(config: dict[Any, Any]) -> Iterator[str]:
    for group, nullable in GROUPS.items():
        for name, node in (config.get(group) or {}).items():
            if "_target_" not in (node if isinstance(node, dict) else ()) and not (node is None and nullable):
                yield f"{group}.{name}={node} names no class; give it a _target_, or leave it out by ~{group}.{name}."


def _faults(key: str, node: dict[Any, Any]) -> Iterator[str]:
    parameters, is_all = _parameters(node["_target_"])
    for name, value in node.items():
        if str(name).startswith("_"):
            continue
        if name not in parameters:
            if is_all:
                yield unknown(f"{key}.{name}", list(parameters), more=False)
        elif _takes_numbers_alone(parameters[name].annotation) and not _may_be_number(value):
            yield f"{key}.{name}: {value!r} is no number."


def _parameters(target: str) -> tuple[dict[str, Parameter], bool]:
    """What a class or function is known to take, and whether that is all; `**settings` may be those of a base class."""
    parameters: dict[str, Parameter] = {}
    try:
        made = resolve_name(target)
        for one in made.__mro__ if isinstance(made, type) else (made,):
            found = signature(one).parameters
            parameters = {**found, **parameters}
            if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in found.values()):
                return parameters, one is made
    except Exception:  # whatever importing has raised: the constructor will say it
        pass
    return parameters, False


def _takes_numbers_alone(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    names = {getattr(kind, "__name__", str(kind)) for kind in kinds}
    return bool(names & NUMBERS) and names <= NUMBERS | {"NoneType", "Tensor"}


def _may_be_number(value: Any) -> bool:
    """False for a list, a mapping that makes nothing, and a text that is neither a number nor interpolated."""
    if isinstance(value, dict):
        return "_target_" in value
    if not isinstance(value, str) or "${" in value:
        return not isinstance(value, list)
    try:
        float(value)
    except ValueError:
        return False
    return True

"""Name an evaluation: the settings that differ from the default ones, and the name of its folder."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sspir.config.compose import choices, compose_config, config_root, load_choice
from sspir.errors import UserError
from sspir.moved import named

# Keys of the configuration that decide the pictures and what of them is measured
SETTINGS = ("seed", "limit", "crop_border", "benchmark", "captioner", "sampler", "peers")
GROUPS = {"benchmark.degradation": "degradation", "captioner": "captioner"}  # key -> folder of choices in `conf/`
LONGEST = 120  # characters of a folder's name


def settings_of(config: DictConfig) -> dict[str, Any]:
    """The settings that differ from the default evaluation on the benchmark: dotted key -> value, choices by name.

    Args:
        config: composed `conf/evaluate.yaml`.
    """
    default = _default(config.benchmark.name)
    found: dict[str, Any] = {}
    for key in SETTINGS:
        found |= _differences(plain(config[key]), plain(default[key]), key)
    return found


def folder_name(config: DictConfig) -> str:
    """Checkpoint and settings as the name of a folder, such as "last" or "best-seed1-steps20"; the long are hashed."""
    parts = [_word(config.checkpoint.removesuffix(".ckpt"))]
    for key, value in settings_of(config).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        word = _word(",".join(value) if key == "peers" else value)
        parts.append(f"{key.removeprefix('sampler.')}{'' if number else '_'}{word}")
    name = "-".join(parts)
    return name if len(name) <= LONGEST else f"{parts[0]}-{_digits(name)}"


def _default(benchmark: str) -> Mapping[str, Any]:
    """The settings of the default evaluation on a benchmark; plain ones where no choice has its name."""
    try:
        return _composed(_file_of(benchmark))
    except UserError:
        return {**dict.fromkeys(SETTINGS), "seed": 0, "crop_border": 0, "sampler": {}, "peers": []}


def _file_of(benchmark: str) -> str:
    """The choice that makes a benchmark of this name, which may be one of people's own in a file of another name."""
    if benchmark in (known := choices("benchmark")):
        return benchmark
    shipped = {path.stem for path in (config_root() / "conf" / "benchmark").glob("*.yaml")}  # named as their files
    own = [file for file in known if file not in shipped]
    return next((file for file in own if _composed(file).benchmark.get("name") == benchmark), benchmark)


@cache
def _composed(benchmark: str) -> DictConfig:
    return compose_config("evaluate", [f"benchmark={benchmark}"])


def plain(node: Any) -> Any:
    """A node of a configuration as mappings, lists and values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _differences(now: Any, default: Any, key: str) -> dict[str, Any]:
    """Dotted key -> value wherever two settings differ."""
    if now == default:
        return {}
    if key in GROUPS:
        return {GROUPS[key]: _choice(GROUPS[key], json.dumps(now))}
    if not isinstance(now, dict):
        return {key: now}
    if not isinstance(default, dict):
        return {key: _unnamed(now)}
    found: dict[str, Any] = {}
    for name in sorted(now.keys() | default.keys()):
        found |= _differences(now.get(name), default.get(name, ...), f"{key}.{name}")  # null is a value
    return found


@cache
def _choice(group: str, node: str) -> str:
    """The name of the shipped choice that equals a node (as JSON), else `_unnamed`."""
    for path in sorted((config_root() / "conf" / group).glob("*.yaml")):
        choice = OmegaConf.load(path)
        if "defaults" in choice:
            choice = load_choice(group, path.stem)
        if named(plain(choice)) == named(json.loads(node)):
            return path.stem
    return _unnamed(json.loads(node))


def _unnamed(node: dict[str, Any]) -> str:
    """The class or function that a node names, and digits that tell the node apart."""
    return f"{str(node.get('_target_', '')).rpartition('.')[2]}-{_digits(json.dumps(node))}"


def _word(value: Any) -> str:
    """A value as a part of a folder's name: as it is where that is short and plain."""
    return str(value) if re.fullmatch(r"[\w.,=-]{1,40}", str(value)) else _digits(str(value))


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

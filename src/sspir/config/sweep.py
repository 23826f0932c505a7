"""Name the runs of a sweep by the settings that the sweep varies."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

NAMED = ("experiments", "ablation", "name", "variant", "seed")  # have a place of their own in a run's folder
SHORT = re.compile(r"[\w.+-]{1,24}")


def with_swept(arguments: list[str]) -> list[str]:
    """Arguments of a training, with the setting `sweep` that says which settings a multirun varies.

    Args:
        arguments: Hydra's overrides and flags.

    Raises:
        UserError: the configuration cannot be composed.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return arguments
    from sspir.config.compose import varied_by_file  # which takes its names from here

    given = _overrides(arguments)
    last = {name_of(each): each for each in _parsed([*varied_by_file(given), *given])}
    return [*arguments, *naming(name for name, each in last.items() if each.is_sweep_override())]


def name_of(override: Override) -> str:
    """The setting that an override names, with the package of a group where one is given."""
    return str(override.get_key_element()).lstrip("+~")


def sharing_out(arguments: Sequence[str]) -> list[str]:
    """The settings that a multirun varies and that `out`, which is given, does not name, so that jobs share it.

    Values of its own, where it is varied itself, tell none of the others apart.

    Args:
        arguments: Hydra's overrides and flags.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return []
    given = {name_of(each): each for each in _parsed(arguments)}
    own = given.pop("out", None)
    text = own.input_line if own and own.input_line else "${hydra:"
    if "${hydra:" in text:  # which may say the job's number
        return []
    keys = [each.package or each.key_or_group for each in given.values() if each.is_sweep_override()]
    if "${evaluation:" in text:  # which names all others
        keys = [each for each in keys if each in ("run", "benchmark")]
    return [each for each in keys if not re.search(rf"\$\{{[^}}]*\b{re.escape(each)}\b", text)]


def _parsed(arguments: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(_overrides(arguments))
    except HydraException:  # Hydra says it better
        return []


def _overrides(arguments: Sequence[str]) -> list[str]:
    return [each for each in arguments if each.startswith("~") or ("=" in each and not each.startswith("-"))]


def naming(keys: Iterable[str]) -> list[str]:
    """The override, if it takes one, by which the settings that a sweep varies name its runs."""
    swept = sorted({key for key in keys if key not in NAMED and not key.startswith("hydra")})
    return [f"sweep=[{','.join(swept)}]"] if swept else []


def job_overrides() -> list[str]:
    """The overrides of the current job, as they were given: their references are not followed."""
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return list(given)


def varied(arguments: Sequence[str]) -> list[str]:
    """The current job's overrides that its command varies: those that are not among its arguments, however written.

    Args:
        arguments: of the command.
    """
    fixed = (each for each in _parsed(arguments) if not each.is_sweep_override())
    given = {f"{each.get_key_element()}={each.get_value_element_as_str()}" for each in fixed}
    return [text for text in job_overrides() if text not in given.union(arguments) and not text.startswith("sweep=")]


def swept(keys: Sequence[str]) -> str:
    """The current job's values of a sweep's settings, as a part of a folder's name; "" outside a sweep."""
    if not keys or not HydraConfig.initialized():
        return ""
    overrides = (text.lstrip("+").partition("=") for text in job_overrides())
    values = {key: value for key, _, value in overrides}
    last = [key.rpartition(".")[2] for key in keys]
    labels = [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]
    return "".join(f"-{label}-{_short(values[key])}" for key, label in zip(keys, labels, strict=True))


def _short(value: str) -> str:
    return value if SHORT.fullmatch(value) else hashlib.sha256(value.encode()).hexdigest()[:8]


def ablated(ablations: Mapping[str, bool]) -> str:
    """Name of the variant that several ablations make, in whatever order they were given; "none" without any."""
    return "+".join(sorted(name for name, is_on in ablations.items() if is_on)) or "none"


def name_variant(config: DictConfig) -> None:
    """Add a sweep's settings to the variant's name, for tables and records; the folder stays the same.

    `sweep` and `ablations`, of which the name was made, become empty.
    """
    config.variant += swept(config.sweep)
    config.sweep, config.ablations = [], {}

"""What Hydra and OmegaConf have against a setting, as one sentence that says what to write."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import Container
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

_OF_RESOLVER = "UserError raised while resolving interpolation: "  # before words of our own


def sentence(error: Exception, choices: Callable[[str], list[str]]) -> str:
    """The sentence for a configuration that cannot be composed, or changed.

    Args:
        error: of Hydra or OmegaConf.
        choices: of a group, which Hydra does not tell of a list.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        known = error.options or choices(group)
        others = f"; choose one of {', '.join(known)}" if known else ""
        return f"There is no {group} {name}{others}."
    if isinstance(error, OverrideParseException):
        reason = " ".join(line for line in error.message.split("\n") if not line.startswith("See https"))
        return f"{error.override!r} cannot be read ({reason}); write KEY=VALUE, and quote brackets: 'KEY=\"VALUE\"'."
    if missing := re.search(r"Missing mandatory value: (\S+?)\.?$", str(error), re.MULTILINE):
        return ungiven([missing[1]])
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException) or not cause.full_key:
        return " ".join(str(error).removeprefix(_OF_RESOLVER).split())
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, Container):
        return unknown(cause.full_key, [str(key) for key in cause.parent_node])
    first = str(cause).splitlines()[0].removeprefix(_OF_RESOLVER)
    if wrong := re.match(r"Value ('.*') of type '\w+' could not be converted to (\w+)", first):
        return f"{cause.full_key}: {wrong[1]} is no {wrong[2].lower()}."
    if "is not a ListConfig" in first:
        return f"{cause.full_key} takes a list: '{cause.full_key}=[A,B]'."
    return f"{cause.full_key}: {first.rstrip('.')}."


def unknown(key: str, settings: list[str], more: bool = True) -> str:
    """The sentence for a setting that there is not, by those that are beside it, and whether there may be more."""
    place, dot, name = key.rpartition(".")
    if near := get_close_matches(name, settings, n=1):
        return f"There is no setting {key}, but {place}{dot}{near[0]}."
    there = f"{place or 'the configuration'} has {', '.join(sorted(settings))}" if settings else ""
    added = f"+{key}=VALUE adds one" if place and more else ""
    return f"There is no setting {key}; {'; '.join(filter(None, (there, added)))}."


def ungiven(settings: Sequence[str]) -> str:
    """The sentence for settings that have no default."""
    return f"Give {' '.join(f'{key}=VALUE' for key in settings)}; there is no default."

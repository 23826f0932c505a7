"""Objects from configurations, with one sentence where a constructor refuses."""

import re
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from sspir.config import outside
from sspir.errors import UserError


def build(node: Any) -> Any:
    """Build the object that a configuration node describes.

    Raises:
        UserError: its constructor, or one further in, raised something.
    """
    try:
        return instantiate(node)
    except InstantiationException as error:
        raise refusal(error) from error


def build_all(nodes: DictConfig) -> list[Any]:
    """Build the nodes of a group; an experiment switches a node off by setting it to null.

    Raises:
        UserError: one of them cannot be made.
    """
    return [built for built in build(nodes).values() if built is not None]


def refusal(error: InstantiationException) -> UserError:
    """The sentence for a constructor that failed: its own, with the node's key, or one that names what failed."""
    cause = error.__cause__ or error
    while isinstance(cause, InstantiationException) and cause.__cause__:
        error, cause = cause, cause.__cause__
    text = str(error)
    found = re.search(r"full_key: (?:module\.)?(\S+)", text)  # what makes the module up stands outside it
    key = found[1] if found else ""
    if isinstance(cause, UserError):
        named = not key or key in str(cause) or key.startswith("data.")  # whose sets and degradation stand elsewhere
        return cause if named else UserError(f"{key}: {cause}")
    if missing := re.match(r"Error locating target '(.+?)'.*?(?:\nfull_key: (.*))?$", text, re.DOTALL):
        reasons = str(error.__cause__).splitlines()[1:] or [str(error.__cause__)]
        return outside.not_found(missing[1], f"the _target_ of {missing[2] or 'the configuration'}", reasons[0])
    target = re.search(r"target '([^']+)'", text)
    if not target:
        return UserError(" ".join(text.split()))
    what = f"{key} ({target[1]})" if key else target[1]
    return UserError(f"{what} cannot be made: {' '.join(str(cause).split()) or type(cause).__name__}")

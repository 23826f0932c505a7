"""Objects from configurations, with one sentence where a constructor refuses."""

import re
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from sspir.config import outside
from sspir.errors import UserError

T = TypeVar("T")


def build(node: Any) -> Any:
    """Build the object that a configuration node describes.

    Raises:
        UserError: its constructor, or one further in, raised something.
    """
    try:
        return instantiate(node)
    except InstantiationException as error:
        raise refusal(error) from error


def build_all(group: str, config: DictConfig, kind: type[T]) -> list[T]:
    """Build the nodes of a mapping; an experiment switches a node off by setting it to null.

    Args:
        group: its name in the configuration.
        config: which has it.
        kind: what each node must come to.

    Raises:
        UserError: a node is something else, or cannot be made.
    """
    made = {name: built for name, built in build(config[group]).items() if built is not None}
    for name, built in made.items():
        if not isinstance(built, kind):
            raise UserError(f"{group}.{name}: {built!r} is no {kind.__name__}; name one by _target_, or write null.")
    return list(made.values())


def refusal(error: InstantiationException) -> UserError:
    """The sentence for a constructor that failed: its own `UserError`, else one that names what cannot be made."""
    cause = error.__cause__ or error
    while isinstance(cause, InstantiationException) and cause.__cause__:
        error, cause = cause, cause.__cause__
    if isinstance(cause, UserError):
        return cause
    text = str(error)
    if missing := re.match(r"Error locating target '(.+?)'.*?(?:\nfull_key: (.*))?$", text, re.DOTALL):
        reasons = str(error.__cause__).splitlines()[1:] or [str(error.__cause__)]
        return outside.not_found(missing[1], f"the _target_ of {missing[2] or 'the configuration'}", reasons[0])
    target = re.search(r"target '([^']+)'", text)
    key = re.search(r"full_key: (\S+)", text)
    if not target:
        return UserError(" ".join(text.split()))
    what = f"{key[1]} ({target[1]})" if key else target[1]
    return UserError(f"{what} cannot be made: {' '.join(str(cause).split()) or type(cause).__name__}")

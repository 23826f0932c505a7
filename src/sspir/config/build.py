"""Objects from configurations, with one sentence where a constructor refuses."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sspir.config import outside
from sspir.errors import UserError

if TYPE_CHECKING:
    from sspir.captioners.base import Captioner

T = TypeVar("T")


def build(node: Any, **arguments: Any) -> Any:
    """Build the object that a configuration node describes; its lists and mappings are Python's own.

    In one of Hydra's, and among arguments that it is given, a dataclass would be taken for a configuration.

    Args:
        node: of the configuration.
        arguments: more of them, or others.

    Raises:
        UserError: its constructor, or one further in, raised something.
    """
    try:
        if not arguments:
            return instantiate(node, _convert_="all")
        part = instantiate(node, _convert_="all", _partial_=True)
    except InstantiationException as error:
        raise refusal(error) from error
    try:
        return part(**arguments)
    except Exception as error:
        raise UserError(
            f"{node._get_full_key(None)} ({node._target_}) cannot be made: {' '.join(str(error).split())}"
        ) from error


def build_captioner(node: Any) -> "Captioner":
    """Build a captioner whose provenance tells its settings, as a hash, since there may be a key among them.

    A class whose own `provenance` names the captioner, as those of sspir's that have settings, says itself what decides
    the words.

    Args:
        node: of the configuration.

    Raises:
        UserError: it cannot be made.
    """
    from sspir.captioners.base import captioner_of  # which imports torch

    return with_settings(captioner_of(build(node)), node)


def with_settings(captioner: "Captioner", node: Any) -> "Captioner":
    """The captioner that a node describes, with the hash of its settings where it does not tell them itself."""
    from sspir.captioners.base import Captioner, PlainCaptioner

    settings: Any = OmegaConf.to_container(OmegaConf.create(node), resolve=True)
    given = json.dumps({key: value for key, value in settings.items() if key not in ("_target_", "_partial_")})
    stock = type(captioner).provenance in (Captioner.provenance, PlainCaptioner.provenance)
    if given != "{}" and (stock or "captioner" not in captioner.provenance()):
        made_with = hashlib.sha256(given.encode()).hexdigest()[:16]
        object.__setattr__(captioner, "made_with", made_with)  # of a frozen dataclass, too
    return captioner


def build_all(group: str, config: DictConfig, kind: type[T]) -> list[T]:
    """Build the nodes of a group; an experiment switches a node off by setting it to null.

    Args:
        group: a key of the configuration.
        config: the whole.
        kind: what each must be.

    Raises:
        UserError: one of them cannot be made, or is something else.
    """
    found = {name: built for name, built in build(config[group]).items() if built is not None}
    for name, built in found.items():
        if not isinstance(built, kind):
            raise UserError(f"{group}.{name} is a {type(built).__name__}, and no {kind.__name__} of Lightning.")
    return list(found.values())


def refusal(error: InstantiationException) -> UserError:
    """The sentence for a constructor that failed: its own, with the node's key, or one that names what failed."""
    cause = error.__cause__ or error
    while isinstance(cause, InstantiationException) and cause.__cause__:
        error, cause = cause, cause.__cause__
    text = str(error)
    found = re.search(r"full_key: (?:module\.)?(\S+)", text)  # what makes the module up stands outside it
    key = found[1] if found else ""
    if isinstance(cause, UserError):
        of_whole = key in ("", "module", "data") or key.startswith(
            "data."
        )  # whose sets and degradation stand elsewhere
        named = of_whole or key in str(cause) or type(cause) is not UserError
        return cause if named else UserError(f"{key}: {cause}")
    if missing := re.match(r"Error locating target '(.+?)'.*?(?:\nfull_key: (.*))?$", text, re.DOTALL):
        reasons = str(error.__cause__).splitlines()[1:] or [str(error.__cause__)]
        return outside.not_found(missing[1], f"the _target_ of {missing[2] or 'the configuration'}", reasons[0])
    target = re.search(r"target '([^']+)'", text)
    if not target:
        return UserError(" ".join(text.split()))
    what = f"{key} ({target[1]})" if key else target[1]
    return UserError(f"{what} cannot be made: {' '.join(str(cause).split()) or type(cause).__name__}")

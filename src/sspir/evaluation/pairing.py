"""Find the pictures that belong together in several folders, by their names."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sspir.captioners.tables import same_name
from sspir.images.io import ImageError, list_images, read_size

SCALE_SUFFIX = re.compile(
    r"((?:[_-]|(?<=\d))x\d+|[_-]\d+x|[_-](?:LR|HR|SR)(?:x?\d+)?|_SRF_\d+(?:_[LHS]R)?)+$", re.IGNORECASE
)


@dataclass(frozen=True)
class Match:
    """The pictures of one image.

    Attributes:
        name: path below the folder of the truth, without the ending.
        hq: truth, or None where there is none at all.
        lq: what the methods were given, or None.
        restored: method -> picture.
    """

    name: str
    hq: Path | None
    lq: Path | None
    restored: dict[str, Path]


@dataclass(frozen=True)
class Unmatched:
    """A picture without a counterpart: its image and method, and one sentence that says what is wrong."""

    image: str
    method: str
    problem: str


def match(
    methods: Mapping[str, Path], hq: Path | None = None, lq: Path | None = None, ignore_scale: bool = False
) -> tuple[list[Match], list[Unmatched]]:
    """Pair the pictures of several folders by their path below the folder, without the ending.

    Args:
        methods: method -> folder of its pictures.
        hq: folder of the truth; without it the first method's folder says which images there are.
        lq: folder of what the methods were given.
        ignore_scale: also ignore endings such as `_x4`, `x4` after a digit, `_LR4`, `_HR`, `_SRF_4_HR`, but of names
            that all folders have.

    Raises:
        ImageError: a folder is missing or holds no images.
    """
    folders = dict(methods)
    if lq is not None:
        folders["lq"] = lq
    if hq is not None:
        folders["hq"] = hq
    unmatched: list[Unmatched] = []
    paths = {role: _names(folder) for role, folder in folders.items()}
    whole = set.intersection(*(set(names.values()) for names in paths.values()))
    found = {role: _by_name(role, names, ignore_scale, whole, unmatched) for role, names in paths.items()}
    leader = "hq" if hq is not None else next(iter(methods))
    for role, folder in folders.items():
        for name in sorted(found[leader].keys() - found[role].keys()):
            text = f"{folder} has no picture of {name}; it counts for {role} nowhere."
            unmatched.append(Unmatched(name, role, text))
        for name in sorted(found[role].keys() - found[leader].keys()):
            text = f"{found[role][name]} has no counterpart in {folders[leader]}; it is left out."
            unmatched.append(Unmatched(name, role, text))
    matches = [
        Match(
            name,
            found["hq"][name] if hq is not None else None,
            found["lq"].get(name) if lq is not None else None,
            {method: found[method][name] for method in methods if name in found[method]},
        )
        for name in sorted(found[leader])
    ]
    return matches, unmatched


def of_other_size(matches: Sequence[Match]) -> list[str]:
    """A sentence for every picture that, by its header, is not of its truth's size; broken files are passed over."""
    told = []
    pairs = [(path, found.hq) for found in matches if found.hq for path in found.restored.values()]
    for path, hq in pairs:
        with suppress(ImageError):
            if (size := read_size(path)) != (truth := read_size(hq)):
                told.append(unequal(path, size, truth))
    return told


def unequal(path: Path, size: Sequence[int], truth: Sequence[int]) -> str:
    """A sentence about a picture whose height and width are not those of its truth."""
    sizes = [f"{width} x {height}" for height, width in (size, truth)]
    return f"{path} is {sizes[0]}, its truth {sizes[1]} pixels; make them equal, nothing is cropped."


def _names(folder: Path) -> dict[Path, str]:
    return {path: same_name(path.relative_to(folder).with_suffix("").as_posix()) for path in list_images(folder)}


def _by_name(
    role: str, names: Mapping[Path, str], ignore_scale: bool, whole: Collection[str], unmatched: list[Unmatched]
) -> dict[str, Path]:
    """Name -> picture, without endings of scale where these are ignored, unless all folders have the `whole` name."""
    paths: dict[str, Path] = {}
    for path, name in sorted(names.items(), key=lambda item: item[1] not in whole):
        if ignore_scale and name not in whole:
            folder, slash, last = name.rpartition("/")
            name = folder + slash + (SCALE_SUFFIX.sub("", last) or last)
        if name in paths:
            text = f"{path} and {paths[name]} have one name, {name}; the former is left out."
            unmatched.append(Unmatched(name, role, text))
        else:
            paths[name] = path
    return paths

"""Find the pictures that belong together in several folders, by their names."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sspir.captioners.tables import same_name
from sspir.images.io import ImageError, list_images, read_size

SCALE_SUFFIX = re.compile(r"([_-]?x\d+|[_-]\d+x|[_-](?:LR|HR|SR)(?:x?\d+)?|_SRF_\d+(?:_[LHS]R)?)+$", re.IGNORECASE)


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
        ignore_scale: also ignore endings such as `_x4`, `x4`, `_LR4`, `_HR`, `_SRF_4_HR`.

    Raises:
        ImageError: a folder is missing or holds no images.
    """
    folders = dict(methods)
    if lq is not None:
        folders["lq"] = lq
    if hq is not None:
        folders["hq"] = hq
    unmatched: list[Unmatched] = []
    found = {role: _by_name(role, folder, ignore_scale, unmatched) for role, folder in folders.items()}
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


def _by_name(role: str, folder: Path, ignore_scale: bool, unmatched: list[Unmatched]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in list_images(folder):
        name = same_name(path.relative_to(folder).with_suffix("").as_posix())
        if ignore_scale:
            name = SCALE_SUFFIX.sub("", name) or name
        if name in paths:
            text = f"{path} and {paths[name]} have one name, {name}; the former is left out."
            unmatched.append(Unmatched(name, role, text))
        else:
            paths[name] = path
    return paths

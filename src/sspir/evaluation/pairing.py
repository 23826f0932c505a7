"""Find the pictures that belong together in several folders, by their names."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sspir.captioners.tables import same_name
from sspir.images.io import ImageError, list_images, read_size

Names = dict[str, dict[Path, str]]
SCALE_SUFFIX = re.compile(
    r"((?:[_-]|(?<=\d))x\d+|[_-]\d+x|[_-](?:LR|HR|SR)(?:x?\d+)?|_SRF_\d+(?:_[LHS]R)?)+$", re.IGNORECASE
)
AFTER_LETTER = re.compile(r"(?<=[^\W\d_])x\d+$", re.IGNORECASE)  # of babyx4, but of box1 and index1 too


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
        ignore_scale: also ignore endings such as `_x4`, `x4`, `_LR4`, `_HR`, `_SRF_4_HR`, but of names that all
            folders have, and `x4` after a letter only where another folder has the name without it.

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
    if ignore_scale:
        paths = _shortened(_shortened(paths, SCALE_SUFFIX, sure=True), AFTER_LETTER, sure=False)
    found = {role: _by_name(role, names, unmatched) for role, names in paths.items()}
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


def _shortened(paths: Mapping[str, Mapping[Path, str]], suffix: re.Pattern[str], sure: bool) -> Names:
    """Role -> path -> name without the suffix, but for names that all folders have, which come first.

    Unless it is `sure` to be one, another folder must have the shortened name.
    """
    every = [set(names.values()) for names in paths.values()]
    whole, known = set.intersection(*every), set.union(*every)
    found: Names = {}
    for role, names in paths.items():
        others = known - set(names.values())
        found[role] = {}
        for path, name in sorted(names.items(), key=lambda item: item[1] not in whole):
            folder, slash, last = name.rpartition("/")
            short = folder + slash + (suffix.sub("", last) or last)
            found[role][path] = short if name not in whole and (sure or short in others) else name
    return found


def _by_name(role: str, names: Mapping[Path, str], unmatched: list[Unmatched]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path, name in names.items():
        if name in paths:
            text = f"{path} and {paths[name]} have one name, {name}; the former is left out."
            unmatched.append(Unmatched(name, role, text))
        else:
            paths[name] = path
    return paths

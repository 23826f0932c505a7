"""Find the pictures that belong together in several folders, by their names."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sspir.captioners.tables import same_name
from sspir.images.io import ImageError, list_images, read_size

SCALE_SUFFIX = re.compile(
    r"((?:[_-]|(?<=\d))x\d+|[_-]\d+x|[_-](?:LR|HR|SR)(?:x?\d+)?|_SRF_\d+(?:_[LHS]R)?)$", re.IGNORECASE
)
AFTER_LETTER = re.compile(r"(?<=[^\W\d_])x\d+$", re.IGNORECASE)  # of babyx4, but of box1 and index1 too
Form = tuple[str, bool]  # what is left of a name, and whether that is a mere guess


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
        ignore_scale: also ignore endings such as `_x4`, `x4`, `_LR4`, `_HR`, `_SRF_4_HR`, one at a time and as few as
            it takes, and `x4` after a letter only where the other folder has the name without it.

    Raises:
        ImageError: a folder is missing or holds no images.
    """
    folders = dict(methods)
    if lq is not None:
        folders["lq"] = lq
    if hq is not None:
        folders["hq"] = hq
    unmatched: list[Unmatched] = []
    found = {role: _by_name(role, folder, unmatched) for role, folder in folders.items()}
    leader = "hq" if hq is not None else next(iter(methods))
    pairs = {role: _pairs(found[leader], names, ignore_scale) for role, names in found.items()}
    called = _called(found[leader], pairs.values())
    for role, folder in folders.items():
        taken = {other: name for name, (other, _) in pairs[role].items()}
        by_call = {called[name]: other for other, name in taken.items()} if ignore_scale else {}
        for name in sorted(found[leader].keys() - pairs[role].keys()):
            known = f" ({found[role][name].name} there is taken for {called[taken[name]]})" if name in taken else ""
            text = f"{folder} has no picture of {called[name]}{known}; it counts for {role} nowhere."
            unmatched.append(Unmatched(called[name], role, text))
        for name in sorted(found[role].keys() - taken.keys()):
            text = f"{found[role][name]} has no counterpart in {folders[leader]}; it is left out."
            if alike := next((short for short, _ in _forms(name) if short in by_call), None):
                text = f"{found[role][name]} and {found[role][by_call[alike]]} have one name, {alike}; "
                text += "the former is left out."
            unmatched.append(Unmatched(name, role, text))
    matches = [
        Match(
            called[name],
            found["hq"][name] if hq is not None else None,
            found["lq"][pairs["lq"][name][0]] if lq is not None and name in pairs["lq"] else None,
            {method: found[method][pairs[method][name][0]] for method in methods if name in pairs[method]},
        )
        for name in sorted(found[leader], key=lambda name: called[name])
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


def _by_name(role: str, folder: Path, unmatched: list[Unmatched]) -> dict[str, Path]:
    """Name below the folder, without the ending -> picture."""
    paths: dict[str, Path] = {}
    for path in list_images(folder):
        name = same_name(path.relative_to(folder).with_suffix("").as_posix())
        if name in paths:
            text = f"{path} and {paths[name]} have one name, {name}; the former is left out."
            unmatched.append(Unmatched(name, role, text))
        else:
            paths[name] = path
    return paths


def _forms(name: str) -> list[Form]:
    """A name, and what is left of it as its endings are taken away one at a time."""
    folder, slash, last = name.rpartition("/")
    forms = [(name, False)]
    while (short := SCALE_SUFFIX.sub("", last)) not in ("", last):
        last = short
        forms.append((folder + slash + last, False))
    if (short := AFTER_LETTER.sub("", last)) != last:
        forms.append((folder + slash + short, True))
    return forms


def _pairs(first: Collection[str], second: Collection[str], ignore_scale: bool) -> dict[str, tuple[str, int]]:
    """Name of the first folder -> its counterpart's, and how many endings it lost for that.

    As many endings are taken from all names of a folder as pair most of them without doubt, so that `a_x4` and
    `a_x4_x4` are of `a` and `a_x4`; those that are left pair by as few as they can, and two guesses are no pair.
    """
    ours, theirs = ({name: _forms(name)[: None if ignore_scale else 1] for name in names} for names in (first, second))
    most = max(map(len, (*ours.values(), *theirs.values())), default=0)
    rounds = sorted(itertools.product(range(most), repeat=2), key=sum)

    def without_doubt(lost: tuple[int, ...]) -> int:
        return sum(len(ones) == len(others) == 1 for ones, others in _alike(ours, theirs, lost, guesses=0))

    surest = max(rounds, key=without_doubt, default=(0, 0))
    pairs: dict[str, tuple[str, int]] = {}
    for lost, guesses in [(surest, 0), *((lost, 1) for lost in rounds)]:
        for (one, *more), (other, *_) in _alike(ours, theirs, lost, guesses):
            if not more and one in ours and other in theirs:
                pairs[one] = other, len(ours.pop(one)[: lost[0] + 1]) - 1
                del theirs[other]
    return pairs


def _alike(
    ours: Mapping[str, Sequence[Form]], theirs: Mapping[str, Sequence[Form]], lost: tuple[int, ...], guesses: int
) -> list[tuple[list[str], list[str]]]:
    """Names of either folder that are one without so many endings, by at most so many guesses."""
    left, right = _shortened(ours, lost[0]), _shortened(theirs, lost[1])
    keys = [((short, a), (short, b)) for short, a in left for b in (False, True) if a + b <= guesses]
    return [(left[a], right[b]) for a, b in keys if b in right]


def _shortened(forms: Mapping[str, Sequence[Form]], lost: int) -> dict[Form, list[str]]:
    """What is left after so many endings, or as many as there are -> the names of which it is left."""
    found: dict[Form, list[str]] = {}
    for name in sorted(forms):
        found.setdefault(forms[name][: lost + 1][-1], []).append(name)
    return found


def _called(names: Collection[str], pairs: Collection[Mapping[str, tuple[str, int]]]) -> dict[str, str]:
    """Name -> what its image is called: without the endings that it lost for a pair, unless another is called so."""
    called: dict[str, str] = {}
    used: set[str] = set()
    lost = {name: max(found[name][1] if name in found else 0 for found in pairs) for name in names}
    for name in sorted(names, key=lambda name: lost[name]):
        short = _forms(name)[lost[name]][0]
        called[name] = name if short in used else short
        used.add(called[name])
    return called

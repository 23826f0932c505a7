"""Names of results: unique for every photo, and the same in every run."""

from collections.abc import Mapping
from pathlib import Path

from sspir.errors import UserError

SAME = "same"
FORMATS = ("png", "jpg", "webp", "tif", "bmp", SAME)
"""Formats of results, by their suffix; `SAME` keeps each photo's own."""


def place_of(photo: Path) -> Path:
    """The one path of a photo, however its folder was reached; a link to a photo is a photo of its own."""
    return photo.parent.resolve() / photo.name


def resolved(path: Path) -> Path:
    """The path without links; one that links lead round in a circle stays as it is, and fails where it is read."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return place_of(path)


def result_names(photos: Mapping[Path, tuple[Path, str]], known: Mapping[Path, str]) -> dict[Path, Path]:
    """The name of each photo's result: the photo's with another suffix, or with both where another photo has that.

    `a.jpg` and `a.png` become `a.png` and `a.png.png`; where `a.png` was there first, `a.jpg.png` and `a.png`.

    Args:
        photos: in order, place -> name below the input, and suffix of the result.
        known: result -> file name of its photo in earlier runs; the photo keeps the result as long as it is there.

    Raises:
        UserError: photos of different folders would have one name.
    """
    used: dict[Path, Path] = {}
    for photo, (name, suffix) in photos.items():
        choices = (name.with_suffix(suffix), name.with_name(name.name + suffix))
        own = [choice for choice in choices if known.get(choice) == name.name]
        free = [choice for choice in choices if choice not in known or not photo.with_name(known[choice]).exists()]
        choice = next((choice for choice in own + free if choice not in used), None)
        first = used.get(choices[0], photo)
        if choice is None or first.parent != photo.parent:
            raise UserError(
                f"{first} and {photo} would both be written to {choices[0]}; restore "
                f"them one after the other, each into a folder of its own."
            )
        used[choice] = photo
    return {photo: result for result, photo in used.items()}

"""The user's own photos, or the few photos inside scikit-image for people who have none."""

import hashlib
from pathlib import Path
from typing import Literal

from sspir.data.crop import Crop
from sspir.data.image_folder import ImageFolder
from sspir.errors import UserError
from sspir.images.io import list_images

SKIMAGE_TRAIN = ("astronaut.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")
SKIMAGE_VALIDATION = ("chelsea.png", "coffee.png")


def photos(
    split: Literal["train", "validation", "val"],
    root: str | None = None,
    crop: Crop | None = None,
    cache: bool = False,
    cache_gb: float = 2.0,
    other_root: str | None = None,
) -> ImageFolder:
    """A training or validation set of whatever photos there are.

    Args:
        split: which of the two. Where the root has the folders `train` and `val` they are the two sets; where the
            other set has the same root, `val` alone is that of validation, and without it about every twentieth photo,
            by a hash of its name, is kept for validation. "val" is the folder `val` and nothing else, beside a set
            for training whose photos are not told by their root.
        root: a folder; None or "" takes the photos inside scikit-image (6 for training, 2 for validation).
        crop: as of `ImageFolder`.
        cache: as of `ImageFolder`.
        cache_gb: as of `ImageFolder`.
        other_root: of the other set; None is the same. Where it is another one, all photos of the root are in this set.

    Raises:
        UserError: there is no such split, or there are no photos for it.
    """
    if split not in ("train", "validation", "val"):
        raise UserError(f"The split is {split!r}: give train, validation or val.")
    if not root:
        carried = SKIMAGE_TRAIN if split == "train" else SKIMAGE_VALIDATION
        return ImageFolder(skimage_folder(), crop, names=carried, cache=cache, cache_gb=cache_gb)
    folder = Path(root)
    if split == "val":
        if not (folder / "val").is_dir():
            raise UserError(f"{folder} has no folder val; put photos to validate on there, none of those to train on.")
        return ImageFolder(folder / "val", crop, cache=cache, cache_gb=cache_gb)
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        folder = folder / ("train" if split == "train" else "val")
        return ImageFolder(folder, crop, cache=cache, cache_gb=cache_gb)
    if other_root is not None and (not other_root or Path(other_root).resolve() != folder.resolve()):
        return ImageFolder(folder, crop, cache=cache, cache_gb=cache_gb)
    if (folder / "val").is_dir() and split == "train":
        raise UserError(f"{folder} has a folder val, but none called train; move the photos to train on into one.")
    if (folder / "val").is_dir():
        return ImageFolder(folder / "val", crop, cache=cache, cache_gb=cache_gb)
    names = _split_by_hash([path.relative_to(folder).as_posix() for path in list_images(folder)], split)
    return ImageFolder(folder, crop, names=names, cache=cache, cache_gb=cache_gb)


def skimage_folder() -> Path:
    """The folder in which scikit-image keeps its photos."""
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            "No photos are given: set SSPIR_PHOTOS to a folder, or pip install scikit-image to use the few it carries."
        ) from error
    return Path(skimage.__file__).parent / "data"


def _split_by_hash(names: list[str], split: str) -> tuple[str, ...]:
    """Every photo keeps its side when others come or go; each side gets at least one."""
    digests = {name: hashlib.blake2b(name.encode(errors="surrogateescape")).digest() for name in names}
    order = sorted(names, key=digests.__getitem__)
    validation = {name for name in names if digests[name][0] < 256 / 20} or set(order[:1])
    if len(validation) == len(names):
        raise UserError(f"{len(names)} photos are too few for a training and a validation set; give at least 2.")
    return tuple(name for name in names if (name in validation) == (split == "validation"))

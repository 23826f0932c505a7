"""A photo as people hand it in, whatever it is, as a tensor."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sspir.errors import UserError
from sspir.images.colours import eight_bit, picture_of
from sspir.images.extra import ORIENTATION
from sspir.images.hdr import Coding
from sspir.images.io import read_image
from sspir.images.picture import upright

Photo = str | Path | Image.Image | np.ndarray | Tensor


def to_tensor(photo: Photo) -> Tensor:
    """A photo of any kind as (1, 3, H, W) in [0, 1].

    Args:
        photo: path; picture of Pillow, of 8 bits, 16 bits, or floats in [0, 1]; (H, W, 3) or (H, W) array of uint8,
            of uint16, or of floats in [0, 1]; (3, H, W) or (1, 3, H, W) tensor of floats in [0, 1].

    Raises:
        UserError: it is none of those, or holds NaN, infinity or values far out of range.
    """
    if isinstance(photo, str | Path):
        return read_image(photo).tensor()[None]
    if isinstance(photo, Image.Image):
        photo = _pixels(photo)
    if isinstance(photo, np.ndarray):
        photo = _from_array(photo)
    if not isinstance(photo, Tensor):
        raise UserError(f"A {type(photo).__name__} is no photo; hand in a path, a picture, an array or a tensor.")
    if photo.ndim == 4 and len(photo) == 1:
        photo = photo[0]
    if photo.ndim != 3 or len(photo) != 3 or not photo.is_floating_point():
        raise UserError(f"A tensor must be (3, H, W) in [0, 1], not {tuple(photo.shape)} of {photo.dtype}.")
    photo = photo.float()
    if not photo.numel():
        raise UserError(f"An image of shape {tuple(photo.shape)} has no pixels.")
    if not torch.isfinite(photo).all() or photo.min() < -0.01 or photo.max() > 1.01:
        raise UserError("The image holds NaN, infinite values or values outside [0, 1]; divide 8-bit values by 255.")
    return photo.clamp(0, 1)[None]


def _pixels(picture: Image.Image) -> np.ndarray:
    """Values of a picture of Pillow, as those of its file would be read: upright, and colours in sRGB."""
    picture.load()  # Pillow turns a TIFF as it loads it
    orientation = picture.getexif().get(ORIENTATION, 1)
    if picture.mode.startswith(("I", "F")):  # more than 8 bits, at which Pillow would clip them
        return upright(np.array(picture), orientation)
    planes, _ = eight_bit(picture, Coding(), [])
    return picture_of(planes, b"", b"", orientation, []).pixels


def _from_array(array: np.ndarray) -> Tensor:
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    known = array.dtype.kind == "f" or array.dtype.str[1:] in ("u1", "u2")  # whatever the order of bytes
    if array.ndim != 3 or array.shape[-1] != 3 or not known:
        raise UserError(
            f"An array must be (H, W, 3) or (H, W) of uint8, uint16 or floats in [0, 1], not {array.shape} of "
            f"{array.dtype}."
        )
    peak = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1) / peak

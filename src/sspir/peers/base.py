"""What a peer is, and how it restores photos of any size at any scale."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from sspir.color import keep_grey
from sspir.errors import UserError
from sspir.files import sha256
from sspir.models.latent import upscale
from sspir.models.tiling import tiled

TILE = 256  # pixels of the photo: Real-ESRGAN's features of a tile, four times as large, take 268 MB a layer


class Peer(ABC):
    """A restorer that is not ours.

    Attributes:
        scale: by which it enlarges.
        source: where its weights come from.
        licence: of its weights; "" where it is not known.
        checksum: of its weights, for records.
        made_with: the configuration of a class of one's own, whose settings `checksum` may not tell; else empty.
    """

    scale: int
    source: str
    licence: str
    checksum: str
    made_with: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def restore(self, lq: Tensor) -> Tensor:
        """Restore photos (N, 3, h, w) in [0, 1], RGB, to (N, 3, scale h, scale w) in [0, 1], on their device."""

    @abstractmethod
    def parameters(self) -> int | None:
        """How many numbers were learned; None where that is not known."""

    @abstractmethod
    def macs(self, height: int, width: int) -> float | None:
        """Multiplications with additions to restore a photo of this size; None where that is not known."""

    def record(self) -> dict[str, Any]:
        """What results say of it."""
        told = {name: getattr(self, name) for name in ("source", "licence", "scale")}
        return {**told, "checksum": identity(self)}


def identity(peer: Peer) -> str:
    """A checksum of all that decides a peer's pictures, for records; of sspir's own classes that of their weights."""
    return joined(peer.checksum, json.dumps(peer.made_with, sort_keys=True)) if peer.made_with else peer.checksum


def restored(peer: Peer, lq: Tensor, size: tuple[int, int] | None = None, tile: int | None = TILE) -> Tensor:
    """Restore photos with a peer, large ones in tiles that are blended.

    Args:
        peer: at its own scale.
        lq: (N, 3, h, w) in [0, 1], RGB.
        size: (H, W) of the result, to which the peer's own is resized (bicubic); its own by default.
        tile: largest side of what the peer sees at a time, in pixels of `lq`; None: all at once.

    Returns:
        (N, 3, H, W) in [0, 1]; a photo without colour comes out without.
    """

    def folded(tiles: list[Tensor]) -> Tensor:  # to the size that came in, as tiles are blended there
        return F.pixel_unshuffle(peer.restore(tiles[0]), peer.scale)

    side = tile or max(lq.shape[-2:])
    images = F.pixel_shuffle(tiled(folded, [lq], side, side // 4), peer.scale)
    return keep_grey(upscale(images, size or (images.shape[-2], images.shape[-1])), lq)


def checked(path: Path, expected: str | None, missing: str) -> str:
    """The SHA-256 of a file of weights.

    Args:
        path: of the file.
        expected: what it must be; None for anything.
        missing: what to do where there is no file.

    Raises:
        UserError: the file is missing or another.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; {missing}.")
    found = sha256(path)
    if expected is not None and found != expected:
        raise UserError(f"{path} is damaged or another file: its SHA-256 is not {expected}; remove it, and {missing}.")
    return found


def joined(*checksums: str) -> str:
    """One checksum of several files' checksums."""
    return hashlib.sha256(" ".join(checksums).encode()).hexdigest()

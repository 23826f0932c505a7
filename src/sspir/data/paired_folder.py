"""Pairs of low- and high-quality photos in two folders."""

from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path

from sspir.captioners.tables import find_captions, same_name
from sspir.data.alignment import LIKENESS, Shift, align, measure_shift
from sspir.data.crop import Crop, Pixels
from sspir.data.cropped import CroppedPhotos, Photo
from sspir.data.reader import PhotoReader, mark_of
from sspir.errors import UserError
from sspir.images.io import MAX_PIXELS, ImageError, list_images, read_size


class PairedFolder(CroppedPhotos):
    """Real or pre-degraded pairs, matched by their path below the two folders without its suffix.

    Args:
        lq: folder of low-quality photos.
        hq: folder of high-quality photos.
        crop: patches to cut, the same of both; None leaves photos whole.
        captions: as of `find_captions`, by the name of the high-quality photo.
        cache: keep decoded photos in memory, up to `cache_gb`. Each worker process keeps its own.
        cache_gb: bound of the cache, GB.
        max_pixels: larger photos count as broken.
        align: largest shift between the photos of a pair that is cut away, pixels of hq; pairs that are shifted
            further, or unlike each other, count as broken and are told with their shift. 0 takes pairs as they are.

    Raises:
        UserError: for a missing or empty folder, photos without a partner (it lists them), or two photos whose
            names differ in the suffix only.
    """

    def __init__(
        self,
        lq: str | Path,
        hq: str | Path,
        crop: Crop | None = None,
        captions: str | None = None,
        cache: bool = False,
        cache_gb: float = 2.0,
        max_pixels: int = MAX_PIXELS,
        align: float = 0.0,
    ) -> None:
        super().__init__(crop)
        self.pairs = match_pairs(Path(lq), Path(hq))
        self.root = Path(hq)
        self.captions = find_captions(captions, [hq.relative_to(self.root).as_posix() for _, hq in self.pairs])
        self.read = PhotoReader(cache_gb if cache else 0, max_pixels)
        self.align = align
        self.shifts: dict[int, Shift] = {}  # of the pairs that were read: each is measured once

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def load(self, index: int) -> Photo:
        """Read a pair."""
        lq, hq = map(self.read, self.pairs[index])
        path = self.pairs[index][1]
        scale = max(1, hq.shape[0] // lq.shape[0])
        if hq.shape[:2] != (lq.shape[0] * scale, lq.shape[1] * scale):
            sizes = f"{hq.shape[1]}x{hq.shape[0]} for {lq.shape[1]}x{lq.shape[0]}"
            raise ImageError(
                f"{path} is not a whole multiple of its low-quality partner ({sizes} pixels); replace one."
            )
        if self.align:
            hq, lq = self._aligned(index, hq, lq)
        name = path.relative_to(self.root).as_posix()
        return Photo(name, self.captions(path, name) or "", hq, lq)

    def _aligned(self, index: int, hq: Pixels, lq: Pixels) -> tuple[Pixels, Pixels]:
        """Cut the shift of a pair away.

        Raises:
            ImageError: it is larger than `align`, or not clear.
        """
        if index not in self.shifts:
            self.shifts[index] = measure_shift(hq, lq)
        shift, path = self.shifts[index], self.pairs[index][1]
        told = f"{path} is shifted by {shift.down:.1f} pixels down and {shift.right:.1f} to the right of its partner"
        if not shift.likeness >= LIKENESS:
            raise ImageError(
                f"{told} at best, where they are alike by {shift.likeness:.2f} of 1, below {LIKENESS}; replace one, or "
                f"leave the pair out."
            )
        if shift.largest > self.align:
            raise ImageError(f"{told}, more than align={self.align:g}; cut both anew, or leave the pair out.")
        return align(hq, lq, shift)

    def require_fit(self, setting: str) -> None:
        """Refuse, by the headers of the photos, pairs that the crop does not fit; broken files are told when read.

        Args:
            setting: the key of the crop's size, for the message.

        Raises:
            UserError: as of `Crop.require_fit`.
        """
        if self.crop is None:
            return
        for lq, hq in self.pairs:
            with suppress(ImageError):
                size = read_size(hq)
                scale = max(1, size[0] // read_size(lq)[0])
                cut = scale * ceil(self.align / scale)  # at most
                self.crop.require_fit([side - cut for side in size], scale, setting)

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every pair's name and the sizes of both in bytes."""
        for lq, hq in self.pairs:
            yield hq.relative_to(self.root).as_posix(), f"{mark_of(lq)} {mark_of(hq)}"


def match_pairs(lq: Path, hq: Path) -> list[tuple[Path, Path]]:
    """Match (low, high) by the path below the folders without its suffix.

    Raises:
        UserError: as of `PairedFolder`.
    """
    low, high = _by_stem(lq), _by_stem(hq)
    if missing := sorted(set(low) ^ set(high)):
        shown = ", ".join(f"{stem} ({'no high' if stem in low else 'no low'})" for stem in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise UserError(f"{lq} and {hq} do not match: {len(missing)} photos have no partner: {shown}{more}.")
    return [(low[stem], high[stem]) for stem in sorted(low)]


def _by_stem(root: Path) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in list_images(root):
        stem = same_name(path.relative_to(root).with_suffix("").as_posix())
        if stem in stems:
            raise UserError(f"{stems[stem]} and {path} differ in the suffix only; pairs need one photo of each name.")
        stems[stem] = path
    return stems

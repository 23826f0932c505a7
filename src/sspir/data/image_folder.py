"""Photos in folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sspir.captioners.tables import find_captions, same_name
from sspir.data.crop import Crop
from sspir.data.cropped import CroppedPhotos, Photo
from sspir.data.reader import PhotoReader, mark_of
from sspir.errors import UserError
from sspir.images.io import MAX_PIXELS, ImageError, images_below, list_images, read_size


class ImageFolder(CroppedPhotos):
    """High-quality photos in one or several folders, searched recursively.

    Args:
        roots: a folder, or several.
        crop: patches to cut; None leaves photos whole.
        captions: as of `find_captions`: None, "beside", or a .jsonl or .parquet file.
        min_size: photos with a shorter side are left out, pixels; above 0 it opens every file once.
        names: only these files (paths below their root); None for all.
        cache: keep decoded photos in memory, up to `cache_gb`. Each worker process keeps its own.
        cache_gb: bound of the cache, GB.
        max_pixels: larger photos count as broken.

    Raises:
        UserError: for a folder that is missing or has no images, and captions that cannot be read.
    """

    def __init__(
        self,
        roots: str | Path | Sequence[str | Path],
        crop: Crop | None = None,
        captions: str | None = None,
        min_size: int = 0,
        names: Sequence[str] | None = None,
        cache: bool = False,
        cache_gb: float = 2.0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        roots = [roots] if isinstance(roots, str | Path) else list(roots)
        listed = [(path, root) for root in map(Path, roots) for path in _listed(root, names)]
        files = [(path, path.relative_to(root).as_posix()) for path, root in listed]
        if names is not None:
            wanted = set(map(same_name, names))
            files = [(path, name) for path, name in files if same_name(name) in wanted]
        if min_size > 0:
            files = [(path, name) for path, name in files if short_side(path) >= min_size]
        if not files:
            raise UserError(f"No image in {', '.join(map(str, roots))} is wanted; check names and min_size.")
        super().__init__(crop)
        self.files = files
        self.captions = find_captions(captions, [name for _, name in files])
        self.read = PhotoReader(cache_gb if cache else 0, max_pixels)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.files)

    def load(self, index: int) -> Photo:
        """Read a photo."""
        path, name = self.files[index]
        return Photo(name, self.captions(path, name) or "", self.read(path))

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every photo's name and size in bytes."""
        return ((name, mark_of(path)) for path, name in self.files)


def _listed(root: Path, names: Sequence[str] | None) -> list[Path]:
    """All photos of a folder; what else it holds is told, but where files are named nobody wonders about others."""
    return list_images(root) if names is None or not root.is_dir() else images_below(root)


def short_side(path: Path) -> int:
    """The shorter side of a photo from its header, pixels; 0 for a file that is none."""
    try:
        return min(read_size(path))
    except ImageError:
        return 0

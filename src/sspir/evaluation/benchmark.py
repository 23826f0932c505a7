"""Test sets, one photo at a time, always the same."""

from sspir.batch import Batch
from sspir.data.sample import Photos, photos_of
from sspir.degradation import Degradation
from sspir.seeding import sample_seed


class Benchmark:
    """A named list of pairs to restore and measure.

    Pairs come as they are. Photos alone are cut (right, below) to a multiple of the scale, as the field does, and
    degraded with seeds that depend on their names alone.

    Args:
        name: as it is called in tables.
        photos: the pairs or photos.
        degradation: makes lq where the photos have none.
        seed: of the degradations, together with the photos' names.
    """

    def __init__(self, name: str, photos: Photos, degradation: Degradation, seed: int = 0) -> None:
        self.name = name
        self.photos = photos_of(photos)
        self.degradation = degradation
        self.seed = seed

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.photos)

    def __getitem__(self, index: int) -> Batch:
        """The pair at this place, as a batch of one."""
        if index >= len(self):
            raise IndexError(index)
        sample = self.photos[index]
        hq, lq = sample["hq"], sample.get("lq")
        if lq is None:
            hq = self.degradation.cut(hq)
            (hq,), (lq,) = self.degradation.pair(hq[None], [sample_seed(self.seed, 0, sample["id"])])
        return Batch(lq=lq[None], hq=hq[None], captions=[sample["caption"]], ids=[sample["id"]])

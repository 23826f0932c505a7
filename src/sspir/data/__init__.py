"""Files to batches."""

from sspir.data.crop import Crop
from sspir.data.cropped import CroppedPhotos, Photo
from sspir.data.datamodule import RestorationDataModule
from sspir.data.image_folder import ImageFolder
from sspir.data.mixture import Mixture
from sspir.data.paired_folder import PairedFolder
from sspir.data.photos import photos
from sspir.data.shards import Shards
from sspir.data.taught import Taught
from sspir.moved import old_names_of

__all__ = [
    "Crop", "CroppedPhotos", "ImageFolder", "Mixture", "PairedFolder", "Photo", "RestorationDataModule", "Shards",
    "Taught", "photos",
]  # fmt: skip

__getattr__ = old_names_of(__name__)

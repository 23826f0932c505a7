"""The networks of SSP-IR beside stock ones, and the box model's autoencoder."""

from sspir.models.block_dct import BlockDCT
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.refine import RefineLayer
from sspir.models.structure_processor import NoProcessor, StructureProcessor

__all__ = ["BlockDCT", "ControlledUNet", "NoProcessor", "RefineLayer", "StructureProcessor"]

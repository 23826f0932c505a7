"""What a training step minimises: `objective=` chooses one of these."""

from sspir.objectives.adversary import Adversary
from sspir.objectives.base import Objective
from sspir.objectives.consistency import Consistency
from sspir.objectives.diffusion import Diffusion
from sspir.objectives.discriminators import PatchDiscriminator, UNetDiscriminator
from sspir.objectives.feature_discriminator import FeatureDiscriminator
from sspir.objectives.one_step import OneStep, Term
from sspir.objectives.picture_losses import (
    FrequencyLoss,
    GridLoss,
    PerceptualLoss,
    PictureLoss,
    PixelLoss,
    SeamsLoss,
)
from sspir.objectives.score_distillation import ScoreDistillation

__all__ = [
    "Adversary",
    "Consistency",
    "Diffusion",
    "FeatureDiscriminator",
    "FrequencyLoss",
    "GridLoss",
    "Objective",
    "OneStep",
    "PatchDiscriminator",
    "PerceptualLoss",
    "PictureLoss",
    "PixelLoss",
    "ScoreDistillation",
    "SeamsLoss",
    "Term",
    "UNetDiscriminator",
]

"""Convolutional towers of open_clip, such as ConvNeXt, as maps of features."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from sspir.device import constant
from sspir.encoders.open_clip import find_model, load_tower
from sspir.encoders.patch import CLIP_MEAN, CLIP_STD
from sspir.errors import UserError


class OpenCLIPConvEncoder(nn.Module):
    """The vision tower of an open_clip model whose trunk is a convolutional one of timm.

    Args:
        vision: open_clip's `vision_cfg`.
        embed_dim: width of the embedding that the tower ends in.
        stages: whose outputs are the maps, 1 for the first.
        mean: of the training pixels, per channel.
        std: of the training pixels, per channel.
    """

    def __init__(
        self,
        vision: Mapping[str, Any],
        embed_dim: int,
        stages: Sequence[int] = (1, 2, 3, 4),
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        super().__init__()
        self.tower = _build_vision_tower(embed_dim, CLIPVisionCfg(**vision))
        self.taken, self.mean, self.std = [number - 1 for number in stages], list(mean), list(std)

    @classmethod
    def from_open_clip(
        cls,
        path: str,
        model: str | None = None,
        stages: Sequence[int] = (1, 2, 3, 4),
        revision: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """A frozen pretrained tower; arguments as of `OpenCLIPImageEncoder.from_open_clip`, stages as of the class.

        Raises:
            UserError: the weights cannot be loaded, or are of another model.
        """
        described, file = find_model(path, revision, model)
        vision = described["vision_cfg"]
        if not vision.get("timm_model_name"):
            raise UserError(f"{path} is a vision transformer; name OpenCLIPImageEncoder.from_open_clip for it.")
        encoder = cls(
            vision, described["embed_dim"], stages, described.get("mean", CLIP_MEAN), described.get("std", CLIP_STD)
        )
        if file is not None:
            load_tower(encoder.tower, file)
        return encoder.to(getattr(torch, dtype)).eval()

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, C, h, w) of the stages, for images (B, 3, H, W) in about [0, 1] of any size."""
        shift, scale = (constant(tuple(values), images).view(1, 3, 1, 1) for values in (self.mean, self.std))
        pixels = ((images - shift) / scale).to(next(self.tower.parameters()).dtype)
        return self.tower.trunk.forward_intermediates(pixels, indices=self.taken, intermediates_only=True)

"""Tiny networks of the real classes, seeded."""

import torch
from diffusers import UNet2DConditionModel

from sspir.models.controlled_unet import ControlledUNet
from sspir.models.structure_processor import StructureProcessor

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}

XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 5,
}
"""What makes a U-Net one of Stable Diffusion XL's kind."""


def tiny_unet(**changes: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**UNET, **changes}).eval()


def tiny_network(**options: object) -> ControlledUNet:
    """A network whose image tokens are 10 wide, whose captions 12, and whose images are 4 times the latent."""
    unet = options.pop("unet", None) or tiny_unet()
    processor = options.pop("processor", None) or StructureProcessor([4, 6, 8])
    return ControlledUNet.from_unet(unet, processor, **{"image_dim": 10, **options}).eval()


def tiny_inputs(height: int = 8, width: int = 8, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    return {
        "sample": randn(batch, 4, height, width),
        "timestep": torch.tensor([17, 803])[:batch],
        "prompt_embeds": randn(batch, 7, 12),
        "image_embeds": randn(batch, 5, 10),
        "lq": torch.rand((batch, 3, 4 * height, 4 * width), generator=generator),
    }


def wake(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give zeroed layers random weights, so that every path is visible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network

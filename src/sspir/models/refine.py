"""The Refine layer: the trained half of the implicit semantic prior."""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class RefineLayer(ModelMixin, ConfigMixin):
    """Image tokens to the image embeddings that image attention reads: the paper's Refine layer.

    [linear, layer norm, leaky ReLU] twice and a linear layer (SSP-IR `TPBNet`, `models/model.py:338-376`).

    Args:
        input_dim: width of the image encoder's tokens.
        dim: width of the image embeddings.
    """

    @register_to_config
    def __init__(self, input_dim: int = 1024, dim: int = 512) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(input_dim, input_dim),
            nn.LayerNorm(input_dim),
            nn.LeakyReLU(),
            nn.Linear(input_dim, input_dim),
            nn.LayerNorm(input_dim),
            nn.LeakyReLU(),
            nn.Linear(input_dim, dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Image embeddings (B, L, dim) of tokens (B, L, input_dim)."""
        return self.projection(tokens)

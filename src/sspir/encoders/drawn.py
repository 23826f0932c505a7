"""Random weights for a CLIP of transformers, which every version of it draws in another way."""

from typing import Any

import torch
from torch import nn

_SPREAD = 0.02


def draw_weights(model: Any, seed: int) -> None:
    """Fill a text or vision model of CLIP with random weights, the same for the same seed, as transformers 5.24 does.

    Frozen ones are in no checkpoint: by these a run goes on, and fits the models that come along, under any version.

    Args:
        model: `CLIPTextModel` or `CLIPVisionModel`; its weights are replaced.
        seed: of the draws; torch's own random numbers stay as they are.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():  # as each layer draws when it is made; what counts is how much
            if hasattr(module, "class_embedding"):
                torch.randn_like(module.class_embedding)
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        layers = model.config.num_hidden_layers
        model.apply(lambda module: _draw(module, layers))


def _draw(module: Any, layers: int) -> None:
    """Draw a layer's weights, or anew those of a group of layers, which comes after them."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        module.weight.normal_(std=_SPREAD)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
    elif hasattr(module, "position_embedding"):
        if hasattr(module, "class_embedding"):
            module.class_embedding.normal_(std=module.class_embedding.numel() ** -0.5)
        first = module.token_embedding if hasattr(module, "token_embedding") else module.patch_embedding
        for layer in (first, module.position_embedding):
            layer.weight.normal_(std=_SPREAD)
    elif hasattr(module, "q_proj"):
        wide = module.q_proj.in_features**-0.5
        for layer in (module.q_proj, module.k_proj, module.v_proj):
            layer.weight.normal_(std=wide * (2 * layers) ** -0.5)
        module.out_proj.weight.normal_(std=wide)
    elif hasattr(module, "fc1"):
        dim = module.fc1.in_features
        module.fc1.weight.normal_(std=(2 * dim) ** -0.5)
        module.fc2.weight.normal_(std=dim**-0.5 * (2 * layers) ** -0.5)

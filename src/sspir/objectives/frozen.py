"""A denoiser as it was when a training began, beside the one that is trained."""

from copy import deepcopy
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sspir.device import replaying
from sspir.errors import UserError
from sspir.models.attention_adapter import NoAttention
from sspir.models.blocks import NoControlNet
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.lora import remove_lora
from sspir.models.prediction import pred_original_sample
from sspir.models.structure_processor import NoProcessor

WHOLE = "This objective keeps a copy of the network, which trainer=fsdp cannot; take trainer=ddp."


class Seen(NamedTuple):
    """What a frozen denoiser sees of a batch beside its captions.

    Attributes:
        image_embeds: (B, L, D), the image tokens, refined as they were then.
        features: of the structure prior, as it was then.
    """

    image_embeds: Tensor
    features: Tensor


class FrozenDenoiser(nn.Module):
    """Estimates clean latents as a network did when its training began; what is not trained is shared in memory.

    Args:
        module: the `RestorationModule`.
        priors: see the low-quality image too, by image tokens and the structure prior; otherwise the caption alone, as
            the U-Net that a Stable Diffusion was.

    Raises:
        UserError: the weights are random, spread over processes, or of a Processor that is trained first.
    """

    def __init__(self, module: Any, priors: bool) -> None:
        super().__init__()
        self.priors, self.schedule = priors, module.noise_schedule
        if module.backbone.train_unet and not module.config.get("init"):
            raise UserError(
                "This objective distils the network that a training begins with, which here is of random weights: name "
                "a trained one by init=RUN, or init=shipped."
            )
        if module.structure_steps:
            raise UserError("This objective needs a Processor that stays as it is; set module.structure_steps=0.")
        parts = (module.backbone, module.refine) if priors else (module.backbone.unet,)
        weights = [*chain.from_iterable(chain(part.parameters(), part.buffers()) for part in parts)]
        if any(isinstance(weight, DTensor) for weight in weights):
            raise UserError(WHOLE)
        own = {id(weight): nn.Parameter(weight.detach().clone(), False) for weight in weights if weight.requires_grad}
        backbone, *rest = deepcopy(parts, {**{id(weight): weight for weight in weights}, **own})
        remove_lora(backbone)  # it has learned nothing when a training begins
        self.backbone = backbone if priors else _text_alone(backbone)
        self.refine = rest[0] if rest else nn.Identity()
        self.requires_grad_(False).eval()
        self._shared = {id(weight) for weight in weights}

    @torch.no_grad()
    def see(self, lq: Tensor, tokens: Tensor) -> Seen:
        """Look at a batch.

        Args:
            lq: (B, 3, H, W) in [0, 1], upscaled.
            tokens: (B, L, D) of the image encoder.
        """
        with replaying(None, ()):
            return Seen(self.refine(tokens), self.backbone.structure(lq)[0] if self.priors else lq)

    def predict(self, noisy: Tensor, timesteps: Tensor, prompt_embeds: Tensor, seen: Seen) -> Tensor:
        """What it makes of noisy latents (B, C, h, w), of the noise schedule's prediction type."""
        # Launched: a replay would overwrite what the gradients of the trained network's prediction need
        with replaying(None, ()):
            made: Tensor = self.backbone.predict(noisy, timesteps, prompt_embeds, seen.image_embeds, seen.features)
        return made

    @torch.no_grad()
    def clean(self, noisy: Tensor, timesteps: Tensor, prompt_embeds: Tensor, seen: Seen) -> Tensor:
        """Clean latents (B, C, h, w) of noisy ones, in float32.

        Args:
            noisy: (B, C, h, w).
            timesteps: (B,).
            prompt_embeds: (B, L, D) of the captions.
            seen: of the same batch.
        """
        predicted = self.predict(noisy, timesteps, prompt_embeds, seen)
        return pred_original_sample(self.schedule, noisy.float(), predicted.float(), timesteps)

    def own_weights(self) -> dict[str, Tensor]:
        """The weights that are not shared, by name, for checkpoints."""
        weights = self.state_dict(keep_vars=True)
        return {key: weight.detach() for key, weight in weights.items() if id(weight) not in self._shared}


def caption_embeds(module: Any, caption: str, prompt_embeds: Tensor) -> Tensor:
    """Embeddings (B, L, D) of one caption for all images of a batch, whose own (B, l, D) are given."""
    embedded: Tensor = module.text_encoder([caption]).to(prompt_embeds)
    return embedded.expand(len(prompt_embeds), -1, -1)


def _text_alone(unet: Any) -> ControlledUNet:
    processor = NoProcessor([])
    return ControlledUNet(unet, NoControlNet(unet), processor, NoAttention(), NoAttention(), NoAttention())

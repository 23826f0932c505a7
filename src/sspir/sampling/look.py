"""The image that a captioner describes: many captioners describe blur and noise as if they belonged to the scene."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sspir.captioners.base import CaptionerUnavailableError
from sspir.errors import UserError
from sspir.images.room import Size
from sspir.models.latent import upscale
from sspir.sampling.restoration import LARGEST_SEEN, padded_to, structure_of

CAPTIONER_INPUTS = ("lq", "processor", "restored")


def look(pipeline: Any, lq: Tensor, size: tuple[int, int], captioner_input: str = "lq", steps: int = 8) -> Tensor:
    """The image of a photo that a captioner describes: the photo itself, or a first restoration of it.

    Args:
        pipeline: a `RestorationPipeline`.
        lq: (B, 3, h, w) in [0, 1].
        size: (H, W) of the restored image, reduced to 1024 pixels on its longest side.
        captioner_input: "lq", the photo as it is, enlarged as in training; "processor", the Processor's clean image;
            "restored", a quick restoration that no words steer.
        steps: denoising steps of the quick restoration, as many of them as lie below the model's own start; not of a
            model that restores in one.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        CaptionerUnavailableError: the model cannot make this image.
    """
    shrink = min(1.0, LARGEST_SEEN / max(size))
    height, width = (max(1, round(side * shrink)) for side in size)
    if captioner_input == "lq":
        return upscale(lq, (height, width))
    if captioner_input == "restored":
        sampler = pipeline.sampler  # of a model of one step as it is, which knows no other
        if not pipeline.config.one_step:
            sampler = replace(sampler, steps=min(steps, sampler.start or steps), guidance=1.0)
        restored: Tensor = pipeline.restore(lq, [""] * len(lq), (height, width), sampler=sampler).images
        return restored
    if captioner_input != "processor":
        raise CaptionerUnavailableError(
            f"captioner_input={captioner_input!r} is not known; choose {', '.join(CAPTIONER_INPUTS)}."
        )
    processor = pipeline.backbone.processor
    if not processor.predicts_image:
        raise CaptionerUnavailableError("This model has no Processor that predicts images; show restored instead.")
    enlarged = upscale(lq.to(pipeline._execution_device, torch.float32), (height, width))
    with torch.no_grad():
        _, images = structure_of(pipeline.backbone, padded_to(processor.multiple, enlarged))
    pipeline.maybe_free_model_hooks()
    return images[0][..., :height, :width]


def listed(caption: Any, count: int) -> list[str | None]:
    """The captions of photos, of which None is asked for.

    Args:
        caption: one for all, or one for each.
        count: of the photos.

    Raises:
        UserError: one of them is no text.
    """
    several = isinstance(caption, Iterable) and not isinstance(caption, str)
    captions = list(caption) if several else [caption] * count
    if not all(text is None or isinstance(text, str) for text in captions):
        raise UserError(f"caption={caption!r} is no text; give one, one for each photo, or None to ask the captioner.")
    return captions


def captions_of(
    pipeline: Any,
    images: Sequence[Tensor],
    given: Sequence[str | None],
    scale: float | Size | None,
    captioner_input: str,
) -> list[str]:
    """The given captions, with the captioner's where None is given; the captioner is freed afterwards.

    Args:
        pipeline: a `RestorationPipeline`.
        images: (3, h, w) in [0, 1] each.
        given: one per image.
        scale: of the restored images; None: the trained one.
        captioner_input: see `look`.
    """
    asked = [image[None] for image, text in zip(images, given, strict=True) if text is None]
    looks = [look(pipeline, lq, pipeline.size_of(lq, scale), captioner_input)[0] for lq in asked]
    captions = iter(pipeline.captioner(looks, [""] * len(looks)) if looks else [])
    pipeline.captioner.close()
    return [next(captions) if text is None else text for text in given]

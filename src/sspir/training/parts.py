"""Check that the parts of a model fit each other: widths, channels and factors must agree; keep some of them still."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any

from diffusers import ModelMixin
from torch import Tensor, nn

from sspir.encoders.text import TextEncoder
from sspir.errors import NotApplicableError, UserError
from sspir.models.attention_adapter import AttentionAdapter
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import channels_of, factor_of
from sspir.models.lora import base_names
from sspir.models.structure_processor import NoProcessor, StructureProcessor
from sspir.training.checkpoint import require_base, require_marked, require_same_network

_COMPUTED = ("structure", "control", "denoise", "predict", "forward")  # by the backbone itself, not by its parts


def require_fitting(
    backbone: ControlledUNet, vae: Any, text_encoder: TextEncoder, refine: Any, residual: float | None
) -> None:
    """Refuse parts that do not fit each other, before any work is done.

    Raises:
        UserError: widths or numbers of channels differ; the sentence names all of them. Or the Processor is a module
            that no pipeline could hold, or something else would be lost in one, see `_require_kept`.
        NotApplicableError: residuals are asked for, and the Processor predicts no full-size image.
    """
    unet, processor = backbone.unet.config, backbone.processor
    if not isinstance(processor, ModelMixin | NoProcessor):
        kind = type(processor)
        raise UserError(
            f"The Processor {kind.__module__}.{kind.__qualname__} cannot be a part of a pipeline: derive it from "
            f"diffusers.ModelMixin and ConfigMixin, and decorate its constructor with @register_to_config."
        )
    _require_kept(backbone, text_encoder)
    width, channels = text_encoder.model.config.hidden_size, channels_of(vae)
    adapter = backbone.unet_image
    layers = adapter.config.layers.values() if isinstance(adapter, AttentionAdapter) else []
    image_dim = next((layer["context_dim"] for layer in layers), refine.config.dim)
    faults = []
    if width != unet.cross_attention_dim:
        faults.append(f"text_encoder gives {width} channels, the backbone takes {unet.cross_attention_dim}")
    if refine.config.dim != image_dim:
        faults.append(f"refine gives {refine.config.dim} channels, image attention takes {image_dim}")
    if channels != unet.in_channels:
        faults.append(f"the autoencoder has {channels} channels, the backbone {unet.in_channels}")
    if 2 ** (len(processor.channels) - 1) != factor_of(vae):
        faults.append(f"processor.channels must have one width per halving of the autoencoder ({factor_of(vae)})")
    if faults:
        raise UserError(f"The parts of this configuration do not fit: {'; '.join(faults)}.")
    if residual and not processor.predicts_image:
        raise NotApplicableError(
            "The parts of this configuration do not fit: residual needs a Processor with a front that predicts a "
            "full-size image, and a ControlNet."
        )


def _require_kept(backbone: ControlledUNet, text_encoder: TextEncoder) -> None:
    """Refuse what would count in training alone: a pipeline, which validates and restores, holds no more than parts.

    Raises:
        UserError: a backbone or text encoder of one's own computes something itself, or has a part more.
    """
    net, texts, known = type(backbone), type(text_encoder), signature(ControlledUNet).parameters
    lost = [name for name in _COMPUTED if getattr(net, name) is not getattr(ControlledUNet, name)]
    lost += [name for name, _ in backbone.named_children() if name not in known]
    if lost:
        raise UserError(
            f"The backbone {net.__module__}.{net.__qualname__} has a {' and a '.join(lost)} of its own, which "
            f"validating and restoring would leave out: put that into its unet, its processor or an objective."
        )
    if texts.__call__ is not TextEncoder.__call__:
        raise UserError(
            f"The text encoder {texts.__module__}.{texts.__qualname__} has a __call__ of its own, which validating and "
            f"restoring would leave out: change the captions in a captioner, or the embeddings in its model."
        )


def require_pretrained(backbone: ControlledUNet) -> None:
    """Refuse adapters on a U-Net of random weights, which stay as they are.

    Raises:
        UserError: to be raised where a training begins without `init`.
    """
    if backbone.train_unet and base_names(backbone.unet):
        raise UserError(
            "backbone.lora trains adapters on a U-Net that has not been trained; name a model to begin with by "
            "init=RUN (or init=shipped), or set backbone.lora=null."
        )


def require_own(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another network, or one that was trained on other frozen parts.

    Args:
        module: a `RestorationModule`, which takes over what is noted of its base.
        checkpoint: as loaded.

    Raises:
        UserError: as of `require_same_network`, `require_base` and `require_marked`.
    """
    module.brought = set(checkpoint.get("brought", ()))
    require_same_network(checkpoint, saved_weights(module))
    if "base" in checkpoint and "backbone.unet" not in module.brought:
        require_base(checkpoint["base"], module.backbone)
    require_marked(module.always_frozen(), checkpoint.get("frozen", {}))


def require_mixed(backbone: ControlledUNet, precision: str) -> None:
    """Refuse weights in half precision beside others in full, where nothing casts what is computed.

    Raises:
        UserError: to be raised before a training in this precision of Lightning's.
    """
    if precision.startswith(("32", "64")) and len({weight.dtype for weight in backbone.parameters()}) > 1:
        raise UserError(
            f"backbone.dtype holds frozen weights in half precision, which trainer.precision={precision} cannot take; "
            f"set trainer.precision=bf16-mixed, or backbone.dtype=float32 and that of the encoders."
        )


def require_schedule(module: Any) -> None:
    """Refuse a noise schedule that hides the picture, and a sampler that cannot restore by it.

    A last timestep that is noise alone tells nothing of the picture where noise is predicted. A sampler is first used
    by a validation, which may be hours away.

    Args:
        module: a `RestorationModule`.

    Raises:
        UserError: to be raised before a training.
    """
    schedule = module.noise_schedule
    if schedule.config.prediction_type == "epsilon" and schedule.alphas_cumprod[-1] == 0:
        raise UserError(
            "The last timestep of noise_schedule holds no signal, so that no picture follows from predicted noise; set "
            "noise_schedule.prediction_type to v_prediction or sample."
        )
    sampler = module.sampler if module.objective.one_step else module.sampler.faithful()  # as the pipeline does
    sampler.build(schedule)


def trained_weights(module: Any) -> dict[str, nn.Parameter]:
    """Name in a `RestorationModule` -> weight that is trained: of its parts' weights all but the base of adapters."""
    return {
        f"{name}.{key}": weight
        for name, part in module.trainable().items()
        for base in [base_names(part)]
        for key, weight in part.named_parameters()
        if key not in base
    }


def saved_weights(module: Any) -> dict[str, Tensor]:
    """Name in a `RestorationModule` -> weight that its checkpoints hold.

    The base of adapters is among them where it is not what the configuration builds, but what `init` has brought.
    """
    return {
        f"{name}.{key}": weight
        for name, part in module.trainable().items()
        for base in [set() if name in module.brought else base_names(part)]
        for key, weight in part.state_dict().items()
        if key not in base
    }


def trained_first(processor: Any, steps: int) -> frozenset[str]:
    """Names of the weights that the first steps train alone: all of a Processor's front that are trained at all.

    Args:
        processor: whose front makes the full-size image.
        steps: how many they are; 0 for none.

    Raises:
        UserError: none is left to train, or the Processor is of a class of one's own.
    """
    if not steps:
        return frozenset()
    if not isinstance(processor, StructureProcessor):
        raise UserError(
            f"The Processor {type(processor).__name__} has no front that the first steps could train alone: set "
            f"module.structure_steps=0."
        )
    names = frozenset(name for name, weight in processor.front.named_parameters() if weight.requires_grad)
    if not names:
        raise UserError(
            "module.freeze keeps the Processor's front as it is, which the first steps train: set "
            "module.structure_steps=0."
        )
    return names


def keep_still(parts: Mapping[str, nn.Module], patterns: Sequence[str]) -> None:
    """Keep weights from being trained.

    Args:
        parts: that are trained, by name.
        patterns: of the weights, as PART.WEIGHT with * for anything.

    Raises:
        UserError: a pattern fits none, or nothing is left to train.
    """
    weights = {f"{name}.{key}": each for name, part in parts.items() for key, each in part.named_parameters()}
    for pattern in patterns:
        found = [weight for key, weight in weights.items() if fnmatchcase(key, pattern)]
        if not found:
            raise UserError(f"module.freeze: {pattern} fits no trained weight; the parts are {', '.join(parts)}.")
        for weight in found:
            weight.requires_grad_(False)
    if patterns and not any(weight.requires_grad for weight in weights.values()):
        raise UserError("module.freeze leaves nothing to train; take out a pattern.")

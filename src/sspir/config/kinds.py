"""The classes and functions that each setting of a training may name."""

from functools import cache
from typing import Any, NamedTuple

from hydra.utils import get_object

from sspir.config import outside
from sspir.moved import present

Key = tuple[Any, ...]
"""A place in a configuration: names of mappings and numbers in lists."""


class Kind(NamedTuple):
    """The values of a setting: classes by base classes and defining package, and our own functions by name.

    Base classes are dotted paths: Lightning, which restoring does without, takes seconds to import.

    Packages are as narrow as they can be: torchmetrics.multimodal runs code from the hub, and Lightning's loggers send
    keys and pictures to any address.
    """

    bases: tuple[str, ...]
    packages: tuple[str, ...] = ("sspir",)
    functions: tuple[str, ...] = ()


def _network(*functions: str) -> Kind:
    return Kind(("torch.nn.Module",), ("sspir", "torch.nn.modules", "diffusers.models"), functions)


_DATA = Kind(
    (
        "pytorch_lightning.LightningDataModule",
        "torch.utils.data.Dataset",
        "sspir.data.Crop",
        "sspir.degradation.Degradation",
        "sspir.degradation.Operation",
    ),
    functions=("sspir.data.photos", "sspir.degradation.Degradation.mixture"),
)
_METRIC = Kind(("torchmetrics.Metric",), ("sspir", "torchmetrics.image", "torchmetrics.regression"))
_OBJECTIVE = Kind(
    (
        "sspir.objectives.Objective",
        "sspir.objectives.Term",
        "sspir.objectives.PictureLoss",
        "sspir.objectives.Adversary",
        "torch.optim.Optimizer",
        "torch.nn.Module",
    ),
    ("sspir", "torch.nn.modules", "torch.optim"),
    (
        "sspir.encoders.DINOv2ImageEncoder.from_dinov2",
        "sspir.encoders.EfficientNetLite0.from_cache",
        "sspir.encoders.OpenCLIPConvEncoder.from_open_clip",
        "sspir.encoders.OpenCLIPImageEncoder.from_open_clip",
    ),
)
KINDS = {
    "module": Kind(("pytorch_lightning.LightningModule",)),
    "backbone": _network("sspir.models.ControlledUNet.from_unet", "sspir.pretrained.load_unet"),
    "vae": _network("sspir.pretrained.load_autoencoder"),
    "text_encoder": Kind(
        ("sspir.encoders.text.TextEncoder",),
        functions=(
            "sspir.encoders.TextEncoder.from_pretrained",
            "sspir.encoders.TextEncoder.from_xl",
            "sspir.encoders.TextEncoder.tiny",
        ),
    ),
    "image_encoder": _network(
        "sspir.encoders.CLIPImageEncoder.from_clip",
        "sspir.encoders.CLIPImageEncoder.tiny",
        "sspir.encoders.DINOv2ImageEncoder.from_dinov2",
        "sspir.encoders.OpenCLIPImageEncoder.from_open_clip",
    ),
    "captioner": Kind(("sspir.captioners.base.Captioner",)),
    "noise_schedule": Kind(
        ("diffusers.SchedulerMixin",), ("sspir", "diffusers.schedulers"), ("sspir.pretrained.load_noise_schedule",)
    ),
    "objective": _OBJECTIVE,
    "discriminator": _OBJECTIVE,
    "metric": _METRIC,
    "metrics": _METRIC,
    "sampler": Kind(("sspir.sampling.sampler.Sampler",)),
    "optimizer": Kind(("torch.optim.Optimizer",), ("sspir", "torch.optim")),
    "schedule": Kind(("torch.optim.lr_scheduler.LRScheduler",), ("sspir", "torch.optim"), ("sspir.training.cosine",)),
    "data": _DATA,
    "dataset": _DATA,
    "degradation": _DATA,
    "trainer": Kind(
        ("pytorch_lightning.Trainer", "pytorch_lightning.strategies.Strategy"), ("sspir", "pytorch_lightning")
    ),
    "callbacks": Kind(("pytorch_lightning.Callback",), ("sspir", "pytorch_lightning.callbacks")),
    "logger": Kind(("pytorch_lightning.loggers.logger.Logger",), functions=("sspir.training.wandb_logger",)),
}
"""By the setting's name in a record, or in its `module`; all others are networks."""

SAVED = Kind(
    (
        "diffusers.ModelMixin",
        "diffusers.SchedulerMixin",
        "transformers.PreTrainedModel",
        "transformers.PreTrainedTokenizerBase",
    ),
    ("sspir", "diffusers.models", "diffusers.schedulers", "transformers"),
)
"""Parts of a saved pipeline."""


def kind_of(key: Key) -> Kind:
    """The kind of value that may stand at a place of a record."""
    own = key[1:2] if key[:1] == ("module",) and len(key) > 1 else key[:1]
    return KINDS.get(".".join(map(str, own)), _network())


def fits(target: Any, kind: Kind) -> bool:
    """Whether a dotted path names a value of a kind, or anything in SSPIR_PATH's folders; only such is imported."""
    if not isinstance(target, str):
        return False
    root = target.partition(".")[0]
    if root not in {package.partition(".")[0] for package in kind.packages}:
        if not outside.is_own(root):
            return False
        found = _found(target)
        heir = getattr(found, "__self__", None)  # an own class, of a function that one of ours has
        return outside.is_own(_module(found)) or (_is_function(found, kind) and outside.is_own(_module(heir)))
    found = _found(target)
    if root == "sspir" and _is_function(found, kind):
        return True
    return (
        isinstance(found, type)
        and issubclass(found, _classes(kind.bases))
        and f"{_module(found)}.".startswith(tuple(f"{package}." for package in kind.packages))
    )


def _is_function(found: Any, kind: Kind) -> bool:
    return present(f"{_module(found)}.{getattr(found, '__qualname__', '')}") in kind.functions


def _module(found: Any) -> str:
    return str(getattr(found, "__module__", ""))


@cache
def _classes(paths: tuple[str, ...]) -> tuple[type, ...]:
    return tuple(map(get_object, paths))


def _found(target: str) -> Any:
    """The object that Hydra finds under a dotted path; None if there is none."""
    try:
        return get_object(target)
    except Exception:  # whatever importing has raised
        return None

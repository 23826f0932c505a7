"""Old names of modules and classes, which scripts, records and YAMLs of before may use until version 0.3."""

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from sspir.files import led

MODULES = {
    "build": "config.build",
    "callbacks": "training.callbacks",
    "captioning": "captioners.folder",
    "checkpoint": "training.checkpoint",
    "data.benchmark": "evaluation.benchmark",
    "data.captions": "captioners.tables",
    "data.sampler": "data.order",
    "demo": "commands.demo",
    "estimate": "doctor.memory",
    "evaluate": "evaluation.evaluate",
    "evaluation_record": "evaluation.record",
    "experiment_needs": "doctor.needs",
    "export": "weights.export",
    "hub": "pretrained.hub",
    "kinds": "config.kinds",
    "loggers": "training.loggers",
    "losses": "training.losses",
    "metrics.fidelity": "metrics.psnr_ssim",
    "metrics.measure": "evaluation.measure",
    "metrics.pairing": "evaluation.pairing",
    "metrics.perceptual": "metrics.structural",
    "metrics.results": "evaluation.results",
    "metrics.statistics": "evaluation.statistics",
    "metrics.table": "evaluation.table",
    "models.attention_cache": "models.attention_processor",
    "models.authors": "weights.authors",
    "models.sharding": "training.strategy",
    "module": "training.module",
    "monitors": "training.progress",
    "offload": "models.offload",
    "outside": "config.outside",
    "pipeline": "sampling.pipeline",
    "priors": "encoders",
    "priors.captioner": "captioners.base",
    "priors.dinov2_encoder": "encoders.dinov2",
    "priors.dual_text_encoder": "encoders.dual_text",
    "priors.endpoint": "captioners.endpoint",
    "priors.image_encoder": "encoders.clip",
    "priors.measured_captioner": "captioners.measured",
    "priors.open_clip_encoder": "encoders.open_clip",
    "priors.patch_encoder": "encoders.patch",
    "priors.photo_measures": "captioners.photo_measures",
    "priors.text_encoder": "encoders.text",
    "priors.vision_language": "captioners.vision_language",
    "restoring.journal": "files",
    "restoring.restore": "restoring.runner",
    "resume": "training.resume",
    "run": "training.run",
    "sampling.fidelity": "sampling.back_projection",
    "sampling.memory": "memory",
    "schedule": "training.schedule",
    "single_file": "pretrained.single_file",
    "strategy": "training.strategy",
    "sweep": "config.sweep",
    "train": "training.fit",
    "trust": "config.trust",
    "validation": "training.validation",
}
"""Old module -> new module; here and below, all names are those below sspir."""

ROOMS = {"config": "config.compose", "pretrained": "pretrained.load", "weights": "weights.load"}
"""Room that was a module -> where most of what stood in it is."""

NAMES = {
    "metrics.learned.LearnedFullReference": "metrics.distance.PerceptualMetric",
    "callbacks.LogRestorations": "training.panels.LogRestorations",
    "callbacks.Milestones": "training.saving.Milestones",
    "callbacks.SaveAtEnd": "training.saving.SaveAtEnd",
    "callbacks.SkipNaN": "training.updates.SkipNaN",
    "callbacks.StepProgress": "training.progress.StepProgress",
    "config.EvaluateConfig": "config.schema.EvaluateConfig",
    "config.TrainConfig": "config.schema.TrainConfig",
    "config.home": "config.compose.config_root",
    "data.Benchmark": "evaluation.benchmark.Benchmark",
    "data.cropped.to_tensor": "images.picture.chw_tensor",
    "degradation.sample_seed": "seeding.sample_seed",
    "images.io.write_atomically": "files.write_bytes",
    "metrics.measure.usable": "metrics.base.usable",
    "models.latent.decode": "models.latent.decode_latents",
    "models.latent.encode": "models.latent.encode_latents",
    "pipeline.Restored": "sampling.output.RestorationOutput",
    "priors.captioner.to_picture": "captioners.base.pil_image",
    "priors.image_encoder.DINOv2ImageEncoder": "encoders.dinov2.DINOv2ImageEncoder",
    "priors.image_encoder.NoImageEncoder": "encoders.base.NoImageEncoder",
    "priors.image_encoder.OpenCLIPImageEncoder": "encoders.open_clip.OpenCLIPImageEncoder",
    "priors.image_encoder.RefineLayer": "models.refine.RefineLayer",
    "priors.image_encoder.encoder_of": "encoders.base.encoder_of",
    "restoring.restore.Restorer": "restoring.runner.JobRunner",
    "sampling.fidelity.drawn_to": "sampling.back_projection.back_project",
}
"""What went elsewhere than the rest of its module: old name -> new name."""

SETTINGS = {"backbone.path": "backbone.unet.path", "backbone.revision": "backbone.unet.revision"}
"""Old, shorter setting -> new one, where the U-Net is one that `load_unet` loads; these two may be written for ever."""

_UNETS = {
    "sspir.models.ControlledUNet.from_scratch": "diffusers.UNet2DConditionModel",
    "sspir.models.ControlledUNet.from_stable_diffusion": "sspir.pretrained.load_unet",
}
"""Old constructor of the backbone -> what makes its U-Net now."""

_COPIES = {
    "backbone.processor": "${processor}",
    "schedule.num_training_steps": "${trainer.max_steps}",
    "schedule.structure_steps": "${module.structure_steps}",
    "callbacks.early_stopping.monitor": "${monitor}",
    "callbacks.last.every_n_train_steps": "${checkpoint_every}",
}
"""Setting of a record -> what it was a copy of, beside those that `conf/train.yaml` tells."""

_DIFFUSION = {"_target_": "sspir.objectives.Diffusion"}  # of trainings that knew no other objective
_NOTHING = "???"  # OmegaConf's word for a value that is not there


class _OldModule(ModuleType):
    """What is asked of an old module is taken from where it is now."""

    def __getattr__(self, name: str) -> Any:
        return sys.modules.get(f"{self.__name__}.{name}") or old_name(self.__name__, name)


def keep_old_modules() -> None:
    """Let old modules be imported; what loads records by the names in them finds them too."""
    for name in MODULES:
        sys.modules.setdefault(f"sspir.{name}", _OldModule(f"sspir.{name}"))


def old_names_of(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that lost names to others."""
    return lambda name: old_name(module, name)


def old_name(module: str, name: str) -> Any:
    """What stood in a module, with a warning that says where it stands now.

    Args:
        module: dotted name of the old module, or of one that lost a name.
        name: what is asked of it.

    Raises:
        AttributeError: there was no such name.
    """
    room = module.removeprefix("sspir.")
    old, moved = f"{room}.{name}", {**MODULES, **ROOMS}.get(room)
    if room in ROOMS and find_spec(f"{module}.{name}"):  # a file, for which Python asks before it imports it
        raise AttributeError(f"module {module!r} has not imported {name!r}")
    new = NAMES.get(old) or (f"{moved}.{name}" if moved and not name.startswith("__") else "")
    place, _, attribute = f"sspir.{new}".rpartition(".")
    if not new or not hasattr(import_module(place), attribute):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    told = f"sspir.{old} is now sspir.{new}; the old name goes in version 0.3."
    warnings.warn(told, DeprecationWarning, stacklevel=3)
    return getattr(import_module(place), attribute)


def renamed(target: str) -> str:
    """The name of what stood in another module; the same where it did not."""
    top, *parts = target.split(".")
    for length in range(len(parts), 0, -1) if top == "sspir" else ():
        if new := {**MODULES, **NAMES}.get(".".join(parts[:length])):
            return ".".join([top, new, *parts[length:]])
    return target


def present(target: str) -> str:
    """The name ROOM.CLASS, ROOM.CLASS.METHOD or ROOM.FUNCTION of what of sspir has or had a longer or older one."""
    if not target.startswith("sspir."):
        return target
    top, room, *rest = renamed(target).split(".")
    first = next((place for place, part in enumerate(rest) if part[:1].isupper()), max(0, len(rest) - 1))
    return ".".join([top, room, *rest[first:]])


def named(node: Any, name: Callable[[str], str] = present) -> Any:
    """A configuration, as plain mappings and lists, with the present (or another) name of every `_target_`."""
    if isinstance(node, list):
        return [named(child, name) for child in node]
    if not isinstance(node, dict):
        return node
    return {key: name(str(child)) if key == "_target_" and child else named(child, name) for key, child in node.items()}


def as_before(now: Any, before: Any) -> Any:
    """What was recorded before, where it is the same under older names of classes; else what is recorded now."""
    return before if named(before) == named(now) else now


def present_config(config: dict[str, Any]) -> dict[str, Any]:
    """A training's configuration, resolved or not, as plain mappings, with today's settings; others as they are."""
    config = {key: _present_set(node) if key in ("dataset", "data") else node for key, node in config.items()}
    if isinstance(module := config.get("module"), dict) and "backbone" in module:
        module = {"objective": _DIFFUSION, **module, "backbone": _present_backbone(module["backbone"])}
        config = {"objective": _DIFFUSION, **config, "module": module}
    if "backbone" in config:
        config["backbone"] = _present_backbone(config["backbone"])
        config = _refer_to_unet(config) if _is_loaded(config["backbone"]) else config
    return config


def _present_backbone(node: Any) -> Any:
    """A backbone whose U-Net is a node of its own."""
    if not isinstance(node, dict):
        return node
    if unet := _UNETS.get(present(str(node.get("_target_")))):
        of_scratch = {"train_unet": True} if unet.startswith("diffusers.") else {}
        node = {**node, "_target_": "sspir.models.ControlledUNet.from_unet", **of_scratch}
        node["unet"] = {"_target_": unet, **node.pop("unet", {})}  # after the Processor, which drew its weights first
    if _is_loaded(node):
        short = {old.rpartition(".")[2] for old in SETTINGS}
        given = {key: node[key] for key in short if node.get(key, _NOTHING) != _NOTHING}
        node = {key: value for key, value in node.items() if key not in short}
        node["unet"] = {**node["unet"], **given}
    return node


def _is_loaded(backbone: Any) -> bool:
    unet = backbone.get("unet") if isinstance(backbone, dict) else None
    return isinstance(unet, dict) and present(str(unet.get("_target_"))) == "sspir.pretrained.load_unet"


def _refer_to_unet(node: Any) -> Any:
    """The same with every reference to an old setting led to the new one."""
    if isinstance(node, dict):
        return {key: _refer_to_unet(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_refer_to_unet(child) for child in node]
    for old, new in SETTINGS.items() if isinstance(node, str) else ():
        node = re.sub(rf"(?<=[{{:]){re.escape(old)}(?=[}},])", new, node)
    return node


def _present_set(node: Any) -> Any:
    """Photos of which a mixture's data sets each had the same crop, with that as the mixture's."""
    train = node.get("train") if isinstance(node, dict) else None
    if not isinstance(train, dict) or "crop" in train or present(str(train.get("_target_"))) != "sspir.data.Mixture":
        return node
    crops = [each.get("crop") if isinstance(each, dict) else None for each in train["datasets"]]
    if not crops or not isinstance(crops[0], dict) or any(crop != crops[0] for crop in crops):
        return node
    node, *sets = ({key: value for key, value in each.items() if key != "crop"} for each in (node, *train["datasets"]))
    return {**node, "train": {**train, "crop": crops[0], "datasets": sets}}


def present_overrides(overrides: Iterable[str]) -> Iterator[str]:
    """Hydra's overrides, of which those of old settings are taken where there are only new ones.

    A new setting puts out what a file says under the old name.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key.lstrip("+") in SETTINGS:
            yield f"++{key.lstrip('+')}={value}"
            continue
        yield override
        for old, new in SETTINGS.items():
            if equals and key.lstrip("+") == new:
                yield f"++{old}={_NOTHING}"


def present_changes(changes: Iterable[str], config: Any) -> list[str]:
    """Changes "key=value" of a configuration, those of old settings under their new names where it has these."""
    parts = [change.partition("=") for change in changes]
    return ["".join((new if _at(config, new := SETTINGS.get(key, key)) else key, *rest)) for key, *rest in parts]


def with_references(record: dict[str, Any], shipped: dict[str, Any]) -> dict[str, Any]:
    """A resolved record of before with references to the run's folder, and to settings of which it holds copies.

    Args:
        record: as plain mappings.
        shipped: `conf/train.yaml`, whose references in `data` and `module` are meant.
    """
    whole = led(record, record["folder"], "${folder}")
    copies = {f"{part}.{name}": str(source) for part in ("data", "module") for name, source in shipped[part].items()}
    for copy, source in (copies | _COPIES).items():
        place, _, name = copy.rpartition(".")
        node = _at(whole, place)
        if source.startswith("${") and isinstance(node, dict) and node.get(name, ...) == _at(whole, source[2:-1]):
            node[name] = source
    return {**whole, "folder": record["folder"]}


def _at(node: Any, key: str) -> Any:
    """What stands at a dotted key; None if nothing does."""
    return reduce(lambda part, name: part.get(name) if hasattr(part, "get") else None, key.split("."), node)

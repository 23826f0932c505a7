"""Find out what an experiment needs before it can be trained: files, photos, memory, devices."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from sspir.config.compose import told
from sspir.doctor.memory import PROGRAM, Estimate, estimate_step
from sspir.errors import UserError
from sspir.memory import free_bytes
from sspir.moved import present
from sspir.peers import Teacher
from sspir.perceptual.weights import DISTANCES, find_trunk
from sspir.pretrained.adapter import cached
from sspir.pretrained.hub import in_cache, is_whole
from sspir.training.parts import require_mixed, require_pretrained
from sspir.training.run import CONFIG
from sspir.training.saved import INDEX, folder_of
from sspir.training.strategy import require_whole, shares

GIB = 2**30
Finding = tuple[str, list[str]]

# Constructor -> folders of `path` that it reads.
_PARTS = {
    "load_unet": ("unet",),
    "load_autoencoder": ("vae",),
    "load_noise_schedule": ("scheduler",),
    "from_xl": ("text_encoder", "text_encoder_2"),
}
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def needs(config: DictConfig) -> Iterator[Finding]:
    """Yield findings about an experiment: a line, and what to do about it (nothing where all is well).

    Args:
        config: composed `conf/train.yaml`.
    """
    module, trouble = shapes(config)
    sizes = {} if module is None else _sizes(module)
    for setting, node in _loaded(config):
        for folder in _PARTS.get(str(node._target_).rpartition(".")[2], (node.get("subfolder", ""),)):
            size = sizes.get(folder or setting.partition(".")[0])
            yield _files(setting, str(node.path), folder, node.get("revision"), size)
    if lora := (config.backbone.get("unet") or {}).get("lora"):
        here = Path(lora).expanduser().exists() or cached(lora) is not None
        yield (
            f"backbone.unet.lora: {lora}",
            [] if here else ["not here: correct the path, or set it to a file; else the hub is asked"],
        )
    if config.init:
        yield f"init: {config.init}", _init(config.init)
    yield from _judges(config.objective)
    yield from _photos(config)
    yield _effective_batch(config)
    if module is None:
        yield "configuration", [trouble]
        return
    crops = [node.size for path, node in _nodes(config.dataset.train, "") if path.endswith("crop") and "size" in node]
    size, averaged = max(crops, default=512), config.callbacks.get("ema") is not None
    precision, processes = str(config.trainer.precision), _world(config.trainer) if shares(config.trainer) else 1
    try:
        require_whole(config)
        require_mixed(module.backbone, precision)
        if not config.init:
            require_pretrained(module.backbone)
        estimate = estimate_step(module, config.data.batch_size, size, precision, averaged, processes=processes)
    except UserError as error:
        yield "configuration", [str(error)]
        return
    yield f"{estimate.trained / 1e6:.2f} M parameters are trained, {estimate.frozen / 1e6:.2f} M are frozen", []
    yield _memory_line(estimate, config, size, processes), []
    yield _fits(estimate, config)


def _loaded(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield the parts that load pretrained weights: the setting that points to the weights, and the node."""
    for name in ("backbone", "vae", "noise_schedule", "text_encoder", "image_encoder", "captioner"):
        node = config[name].get("unet", config[name])  # of the backbone, unless it is one of somebody's own
        if isinstance(node, DictConfig) and "path" in node:
            yield f"{name}.path" if name not in ("vae", "noise_schedule") else "backbone.path", node


def _init(source: str) -> list[str]:
    """What to do about the model that a training begins with."""
    try:
        folder = folder_of(source)
    except UserError as error:
        return [str(error)]
    there = any((folder / name).is_file() for name in (CONFIG, INDEX))
    return [] if there else ["not here: name the folder of a run or of a pipeline, or shipped"]


def _files(setting: str, path: str, folder: str, revision: str | None, size: int | None) -> Finding:
    """The finding about a part's weights: where they are and how large, or where to put them."""
    place, name = Path(path).expanduser(), f"{path} {folder}".strip()
    if place.is_file():
        return f"{name}: {place} ({_size(place.stat().st_size)})", []
    wanted = "scheduler_config.json" if folder == "scheduler" else "config.json and its weights (*.safetensors)"
    if not place.is_dir():
        cached = in_cache(path, folder, revision, ("config.json", "scheduler_config.json", "open_clip_config.json"))
        if cached is None or not is_whole(cached):
            where = f" into its folder {folder}" if folder else ""
            about = f" (about {_size(size)} in float32)" if size and folder != "scheduler" else ""
            return name, [f"not here: copy {wanted}{about}{where}, and set {setting} to it; else the hub is asked"]
        place, folder = cached.parent, ""
    held = sum(file.stat().st_size for pattern in _WEIGHTS for file in (place / folder).glob(pattern))
    is_schedule = (place / folder / "scheduler_config.json").is_file()
    if not held and not is_schedule:
        return name, [f"{place / folder} lacks {wanted}; copy them there, or correct {setting}"]
    return f"{name}: {place / folder} ({_size(held)})" if held else f"{name}: {place / folder}", []


def _size(held: int) -> str:
    return f"{held / GIB:.2f} GiB" if held > GIB / 100 else f"{held / 2**20:.2f} MiB"


def _judges(objective: DictConfig) -> Iterator[Finding]:
    """Findings about the weights of what an objective judges pictures by: distances, discriminator, teacher."""
    for key, term in (objective.get("terms") or {}).items():
        loss: Any = term.loss if term and term.weight else {}
        if loss.get("name") in DISTANCES and not loss.get("path"):
            place = find_trunk(DISTANCES[loss.name])
            lacks = [] if place else [f"not here: get its weights once by: sspir weights get {loss.name}"]
            yield f"objective.terms.{key}: {loss.name}{f': {place}' if place else ''}", lacks
    adversary: Any = objective.get("adversary") or {}
    encoder: Any = adversary.get("weight") and adversary.network.get("encoder")
    if encoder:
        setting = "objective.adversary.network.encoder"
        if "path" in encoder:
            yield _files(f"{setting}.path", str(encoder.path), "", encoder.get("revision"), None)
        elif str(encoder._target_).endswith(".from_cache"):
            yield setting, _trouble(lambda: instantiate(encoder))
    if isinstance(name := objective.get("teacher"), str):
        yield f"objective.teacher: {name}", _trouble(lambda: Teacher(name).load())


def _trouble(load: Callable[[], object]) -> list[str]:
    """The sentence that loading something ends with; none where all is well."""
    try:
        load()
    except (UserError, InstantiationException) as error:
        return [str(told(error) or error)]
    return []


def _photos(config: DictConfig) -> Iterator[Finding]:
    """Findings about the folders of photos, and about settings of the data set that have no value."""
    for key in sorted(OmegaConf.missing_keys(config.dataset)):
        yield key, [f"not set: name your photos by {key}"]
    for setting, node in _nodes(config.dataset, "dataset"):
        if present(str(node.get("_target_"))) == "sspir.data.photos" and not node.get("root"):
            yield _carried(setting, "root" in node)
        for key in ("root", "roots", "lq", "hq"):
            if not OmegaConf.is_missing(node, key) and (value := node.get(key)) and isinstance(value, str):
                place = Path(value, "val" if node.get("split") == "val" else "").expanduser()
                there = place.exists()
                yield f"{setting}.{key}: {place}", [] if there else [f"not here: set {setting}.{key} to your photos"]


def _carried(setting: str, may_change: bool) -> Finding:
    """The finding about a set without a folder, which takes the photos of scikit-image."""
    yours = f"; set SSPIR_PHOTOS or {setting}.root to yours" if may_change else ""
    there = find_spec("skimage") is not None
    missing = [] if there else [f"scikit-image is not installed: pip install scikit-image{yours}"]
    return f"{setting}: the few photos inside scikit-image, for a try{yours if there else ''}", missing


def _nodes(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        yield path, node
    keys = node if isinstance(node, DictConfig) else range(len(node)) if isinstance(node, ListConfig) else ()
    for key in keys:
        if OmegaConf.is_missing(node, key):
            continue
        yield from _nodes(node[key], f"{path}.{key!s}")


def _effective_batch(config: DictConfig) -> Finding:
    """The finding about the number of images per optimizer step."""
    trainer = config.trainer
    world, steps = _world(trainer), trainer.accumulate_grad_batches
    total = config.data.batch_size * world * steps
    made_of = f"{config.data.batch_size} per device x {world} device(s) x {steps} accumulated"
    return f"an optimizer step sees {total} images: {made_of}", []


def _world(trainer: DictConfig) -> int:
    return int(_devices(trainer) * trainer.num_nodes)


def _devices(trainer: DictConfig) -> int:
    """Number of devices that a training takes: Lightning's number, list of them, or "auto"."""
    if isinstance(trainer.devices, ListConfig):
        return len(trainer.devices)
    if str(trainer.devices).isdecimal() and int(trainer.devices):
        return int(trainer.devices)
    return max(1, torch.cuda.device_count()) if trainer.accelerator != "cpu" else 1


def shapes(config: DictConfig) -> tuple[Any, str]:
    """The module of a configuration on the meta device; None and a sentence where a shape is not known."""
    from sspir.pretrained.load import shapes_only

    settings: Any = OmegaConf.to_container(config.module, resolve=True)
    settings["metrics"] = {}  # they hold no parameters, and some need files
    try:
        with shapes_only():
            module = instantiate(settings, _convert_="all")
        module.config = OmegaConf.to_container(config, resolve=True)
        return module, ""
    except InstantiationException as error:
        if sentence := told(error):
            return None, str(sentence)
        raise


def _sizes(module: Any) -> dict[str, int]:
    """Bytes of each part's file in float32, by its folder or its setting."""
    text = module.text_model
    parts = {"unet": module.backbone.unet, "vae": module.vae, "image_encoder": module.image_encoder}
    double = {"text_encoder": getattr(text, "small", text), "text_encoder_2": getattr(text, "large", text)}
    return {name: 4 * sum(p.numel() for p in part.parameters()) for name, part in (parts | double).items()}


def _memory_line(estimate: Estimate, config: DictConfig, size: int, processes: int) -> str:
    parts = {
        "weights": estimate.weights,
        "optimizer": estimate.optimizer,
        "averaged weights": estimate.averaged,
        "gradients and activations": estimate.passing,
        "the program itself": PROGRAM,
    }
    listed = ", ".join(f"{name} {held / GIB:.2f}" for name, held in parts.items() if held)
    recomputed = " recomputing activations" if config.module.gradient_checkpointing else ""
    step = f"a step of {config.batch_size} images of {size} x {size} in {config.trainer.precision}{recomputed}"
    if shares(config.trainer):
        step += f", in each of {processes} processes," if processes > 1 else ", of the whole network,"
    return f"{step} takes about {estimate.total / GIB:.1f} GiB: {listed}"


def _fits(estimate: Estimate, config: DictConfig) -> Finding:
    """The finding about memory: whether a step fits this machine, and which settings take less."""
    wants_gpu = config.trainer.accelerator not in ("cpu", "auto")
    if wants_gpu and not torch.cuda.is_available():
        return "memory", [f"this machine has no GPU; find one with {estimate.total / GIB:.0f} GiB, or set trainer=cpu"]
    device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
    free = free_bytes(device)
    if estimate.total <= free:
        return f"memory: {free / GIB:.1f} GiB are free ({device.type})", []
    remedies = ["a smaller batch_size with trainer.accumulate_grad_batches"] if config.batch_size > 1 else []
    if not config.module.gradient_checkpointing:
        remedies.append("module.gradient_checkpointing=true")
    if "mixed" in str(config.trainer.precision) and config.backbone.get("dtype") == "float32":
        remedies.append("backbone.dtype=bfloat16")
    remedies += ["callbacks.ema=null"] if estimate.averaged else []
    helps = f"; {', '.join(remedies)} would take less" if remedies else ""
    return "memory", [f"only {free / GIB:.1f} of {estimate.total / GIB:.1f} GiB are free ({device.type}){helps}"]

"""What an evaluation is of: in words, for the name of its folder, and as the record that its results carry."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sspir.config.compose import compose_config, home, load_choice
from sspir.errors import UserError
from sspir.numbers import LIMIT

if TYPE_CHECKING:
    from sspir.data import Benchmark
    from sspir.sampling.pipeline import RestorationPipeline
    from sspir.sampling.sampler import Sampler

# Keys of the configuration that decide the pictures and what of them is measured
SETTINGS = ("seed", "limit", "crop_border", "benchmark", "captioner", "sampler")
GROUPS = {"benchmark.degradation": "degradation", "captioner": "captioner"}  # key -> folder of choices in `conf/`
LONGEST = 120  # characters of a folder's name


def settings_of(config: DictConfig) -> dict[str, Any]:
    """In what an evaluation differs from the default one on its benchmark: dotted key -> value, choices by their name.

    Args:
        config: composed `conf/evaluate.yaml`.
    """
    default = _default(config.benchmark.name)
    found: dict[str, Any] = {}
    for key in SETTINGS:
        found |= _differences(_plain(config[key]), _plain(default[key]), key)
    return found


def folder_name(config: DictConfig) -> str:
    """Checkpoint and settings as the name of a folder, such as "last" or "best-seed1-steps20"; the long are hashed."""
    parts = [_word(config.checkpoint.removesuffix(".ckpt"))]
    for key, value in settings_of(config).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        parts.append(f"{key.removeprefix('sampler.')}{'' if number else '_'}{_word(value)}")
    name = "-".join(parts)
    return name if len(name) <= LONGEST else f"{parts[0]}-{_digits(name)}"


def record_of(
    config: DictConfig, pipeline: "RestorationPipeline", benchmark: "Benchmark", sampler: "Sampler", device: str
) -> dict[str, Any]:
    """What was evaluated and how, as JSON holds it.

    Args:
        config: composed `conf/evaluate.yaml`.
        pipeline: of the run, with its captioner.
        benchmark: of the configuration.
        sampler: the settings in use.
        device: kind of the device in use.

    Returns:
        Of a run its "name", "variant" and "seed", the "checkpoint" and its "step" (None for a saved pipeline), the
        "settings" that differ from the default, the metrics, and the "inputs": where all of these are equal, so are
        the pictures and what of them is measured.
    """
    from sspir.training.run import CONFIG
    from sspir.weights.load import step_of, weights_id

    folder = Path(config.run).expanduser()
    of_run: dict[str, Any] = dict.fromkeys(("name", "variant", "seed", "checkpoint", "step"))
    if (folder / CONFIG).is_file():
        trained: Any = OmegaConf.load(folder / CONFIG)
        of_run = {key: trained[key] for key in ("name", "variant", "seed")}
        of_run |= {"checkpoint": config.checkpoint, "step": step_of(folder, config.checkpoint)}
    count = min(len(benchmark), config.limit or len(benchmark))
    record = {
        "run": config.run,
        **of_run,
        "benchmark": benchmark.name,
        "settings": settings_of(config),
        "metrics": _plain(config.metric),
        "noise_control": config.noise_control,
        "inputs": {
            "weights": weights_id(pipeline),
            "seed": config.seed,
            "limit": config.limit,
            "crop_border": LIMIT.require("crop_border", config.crop_border),
            "sampler": asdict(sampler),
            "captioner": pipeline.captioner.provenance(),
            "benchmark": _plain(config.benchmark),
            "photos": _content(benchmark, count),
            "device": device,
        },
    }
    as_read: dict[str, Any] = json.loads(json.dumps(record))  # lists for tuples
    return as_read


def _content(benchmark: "Benchmark", count: int) -> str:
    """Sixteen digits of names, captions and pixels of what is measured.

    Raises:
        UserError: the results of two photos would have one name.
    """
    digest, names = hashlib.sha256(), set[str]()
    for index in range(count):
        sample = benchmark.photos[index]
        name = Path(sample["id"]).with_suffix("").as_posix()
        if name in names:
            raise UserError(f"Two photos of {benchmark.name} would both be {name}.png in the results; rename one.")
        names.add(name)
        digest.update(json.dumps([sample["id"], sample["caption"]]).encode())
        for picture in (sample["hq"], sample.get("lq")):
            if picture is not None:
                digest.update(picture.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def identity_of(record: Mapping[str, Any]) -> str:
    """Sixteen digits that tell evaluations apart whose pictures may differ."""
    return hashlib.sha256(json.dumps(record["inputs"], sort_keys=True).encode()).hexdigest()[:16]


def _default(benchmark: str) -> Mapping[str, Any]:
    """The configuration of the default evaluation on a benchmark; one that is not shipped has none to compare with."""
    try:
        return _composed(benchmark)
    except UserError:
        return {**dict.fromkeys(SETTINGS), "seed": 0, "crop_border": 0, "sampler": {}}


@cache
def _composed(benchmark: str) -> DictConfig:
    return compose_config("evaluate", [f"benchmark={benchmark}"])


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _differences(now: Any, default: Any, key: str) -> dict[str, Any]:
    """Dotted key -> value wherever two settings differ."""
    if now == default:
        return {}
    if key in GROUPS:
        return {GROUPS[key]: _choice(GROUPS[key], json.dumps(now))}
    if not isinstance(now, dict):
        return {key: now}
    if not isinstance(default, dict):
        return {key: _unnamed(now)}
    found: dict[str, Any] = {}
    for name in sorted(now.keys() | default.keys()):
        found |= _differences(now.get(name), default.get(name, ...), f"{key}.{name}")  # null is a value
    return found


@cache
def _choice(group: str, node: str) -> str:
    """The name of the shipped choice that a node (as JSON) is, else what it makes and digits that tell it apart."""
    for path in sorted((home() / "conf" / group).glob("*.yaml")):
        choice = OmegaConf.load(path)
        if "defaults" in choice:
            choice = load_choice(group, path.stem)
        if _plain(choice) == json.loads(node):
            return path.stem
    return _unnamed(json.loads(node))


def _unnamed(node: dict[str, Any]) -> str:
    return f"{str(node.get('_target_', '')).rpartition('.')[2]}-{_digits(json.dumps(node))}"


def _word(value: Any) -> str:
    """A value as a part of a folder's name: as it is where that is short and plain."""
    return str(value) if re.fullmatch(r"[\w.,=-]{1,40}", str(value)) else _digits(str(value))


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

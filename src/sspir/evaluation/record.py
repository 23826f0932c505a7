"""The record of an evaluation, which its results carry: what was evaluated, and how."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sspir.batch import name_of
from sspir.captioners.base import provenance_of
from sspir.config.naming import plain, settings_of
from sspir.errors import UserError
from sspir.evaluation.benchmark import Benchmark
from sspir.images.io import OTHER_SUFFIXES, SUFFIXES
from sspir.numbers import LIMIT
from sspir.peers.base import Peer, identity
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler
from sspir.training.run import CONFIG
from sspir.training.saved import weights_id
from sspir.weights.load import step_of

# Raised where a new version makes other pictures or other values of the same inputs: what is older is then done anew.
# 2: photos without colour come out without; MS-SSIM of odd sizes as in pyiqa; noise and torchmetrics as of saved files
REVISION = 2


def record_of(
    config: DictConfig,
    pipeline: RestorationPipeline,
    benchmark: Benchmark,
    sampler: Sampler,
    device: str,
    peers: Mapping[str, Peer] = MappingProxyType({}),
) -> dict[str, Any]:
    """What was evaluated and how, as JSON holds it.

    Args:
        config: composed `conf/evaluate.yaml`.
        pipeline: of the run, with its captioner.
        benchmark: of the configuration.
        sampler: the settings in use.
        device: kind of the device in use.
        peers: by name, which restore the same pictures.

    Returns:
        Of a run its "name", "variant" and "seed", the "checkpoint" and its "step" (None for a saved pipeline), the
        "settings" that differ from the default, the metrics, and the "inputs": where all of these are equal, so are
        the pictures and what of them is measured.
    """
    folder = Path(config.run).expanduser()
    of_run: dict[str, Any] = dict.fromkeys(("name", "variant", "seed", "checkpoint", "step"))
    if (folder / CONFIG).is_file():
        trained: Any = OmegaConf.load(folder / CONFIG)
        of_run = {key: trained[key] for key in ("name", "variant", "seed")}
        of_run |= {"checkpoint": config.checkpoint, "step": step_of(folder, config.checkpoint)}
    count = min(len(benchmark), config.limit or len(benchmark))
    record: dict[str, Any] = {
        "run": config.run,
        **of_run,
        "benchmark": benchmark.name,
        "settings": settings_of(config),
        "metrics": plain(config.metric),
        "noise_control": config.noise_control,
        "inputs": {
            "revision": REVISION,
            "weights": weights_id(pipeline),
            "seed": config.seed,
            "limit": config.limit,
            "crop_border": LIMIT.require("crop_border", config.crop_border),
            "sampler": asdict(sampler),
            "captioner": provenance_of(pipeline.captioner),
            "benchmark": plain(config.benchmark),
            "photos": _content(benchmark, count),
            "device": device,
        },
    }
    if peers:  # an evaluation without has the record that it had before there were peers
        record["inputs"]["peers"] = {name: identity(peer) for name, peer in peers.items()}
    if config.cost:
        record["cost"] = True
    as_read: dict[str, Any] = json.loads(json.dumps(record))  # lists for tuples
    return as_read


def _content(benchmark: Benchmark, count: int) -> str:
    """Sixteen digits of a hash of the names, captions and pixels of the first `count` photos.

    Raises:
        UserError: the results of two photos would have one name.
    """
    digest, names = hashlib.sha256(), set[str]()
    for index in range(count):
        sample = benchmark.photos[index]
        name = picture_name(sample["id"])
        if name in names:
            raise UserError(f"Two photos of {benchmark.name} would both be {name}.png in the results; rename one.")
        names.add(name)
        digest.update(json.dumps([name_of(sample["id"]), sample["caption"]]).encode())
        for picture in (sample["hq"], sample.get("lq")):
            if picture is not None:
                digest.update(picture.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def picture_name(sample_id: Any) -> str:
    """The name of a photo's pictures in the results: its own, without the ending of an image file."""
    path = Path(name_of(sample_id))
    return (path.with_suffix("") if path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES) else path).as_posix()


def identity_of(record: Mapping[str, Any]) -> str:
    """Sixteen digits of a hash of the record's inputs: evaluations with equal digits have equal pictures."""
    return hashlib.sha256(json.dumps(record["inputs"], sort_keys=True).encode()).hexdigest()[:16]

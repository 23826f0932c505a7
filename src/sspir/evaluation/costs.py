"""What the methods of an evaluation cost: CPU seconds on one thread, parameters, multiplications."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from sspir.evaluation.measure import BICUBIC
from sspir.models.latent import upscale
from sspir.peers.base import Peer
from sspir.peers.cost import Cost, cost_of, cpu_seconds, macs_of, picture
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.restoration import padded_to, structure_of
from sspir.sampling.sampler import Sampler


@torch.no_grad()
def costs_of_run(pipeline: RestorationPipeline, sampler: Sampler, peers: Mapping[str, Peer]) -> dict[str, Any]:
    """The costs of a run's rows and the peers' beside it, on one picture of 128 x 128 pixels.

    Args:
        pipeline: of the run; seconds are left out where it is not on the CPU. Its captioner is not counted.
        sampler: the settings.
        peers: by name, measured at the run's scale.

    Returns:
        Under "picture" what was restored, in words, and under "methods" by name a `Cost` as a dictionary.
    """
    lq = picture()
    size = pipeline.size_of(lq)
    on_cpu = pipeline._execution_device.type == "cpu"

    def whole() -> None:
        pipeline.restore(lq, [""], size, [0], sampler)

    def structure() -> None:
        enlarged = padded_to(pipeline.backbone.processor.multiple, upscale(lq, size))
        structure_of(pipeline.backbone, enlarged.to(pipeline._execution_device))

    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    rows = {"restored": (whole, networks)}
    if pipeline.backbone.processor.predicts_image:
        rows["processor"] = (structure, [pipeline.backbone.processor])
    replays, pipeline.replays = pipeline.replays, None  # a replay hides its operations from who counts them
    try:
        found = {
            name: Cost(cpu_seconds(run) if on_cpu else None, _count(parts), macs_of(run))
            for name, (run, parts) in rows.items()
        }
    finally:
        pipeline.replays = replays
    return _told(found | _beside(peers, size), size)


def costs_of_peers(peers: Mapping[str, Peer]) -> dict[str, Any]:
    """As `costs_of_run`, of peers alone, at the largest of their scales."""
    side = picture().shape[-1] * max((peer.scale for peer in peers.values()), default=4)
    return _told(_beside(peers, (side, side)), (side, side))


def _beside(peers: Mapping[str, Peer], size: tuple[int, int]) -> dict[str, Cost]:
    """The costs of peers and of bicubic resizing."""
    lq = picture()
    bicubic = Cost(cpu_seconds(lambda: upscale(lq, size)), 0)
    return {BICUBIC: bicubic, **{name: cost_of(peer, size) for name, peer in peers.items()}}


def _told(found: Mapping[str, Cost], size: tuple[int, int]) -> dict[str, Any]:
    height, width = picture().shape[-2:]
    return {
        "picture": f"{width} x {height} to {size[1]} x {size[0]}",
        "methods": {name: asdict(cost) for name, cost in found.items()},
    }


def _count(networks: list[nn.Module]) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())

"""A trained run on a benchmark: restored images, a table per image, a summary with intervals."""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from sspir.data import Benchmark
from sspir.degradation import sample_seed
from sspir.images.io import write_image
from sspir.images.panel import to_picture
from sspir.loggers import log_evaluation
from sspir.metrics.measure import measure_image, usable
from sspir.metrics.results import Results
from sspir.metrics.table import comparison_text, summary_table
from sspir.models.latent import upscale
from sspir.pipeline import RestorationPipeline
from sspir.weights import load_pipeline

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Restore every image of a benchmark, measure it beside bicubic and the Processor, and write it all down.

    Args:
        config: composed `conf/evaluate.yaml`.

    Returns:
        What `summary.json` holds.
    """
    out = Path(config.out)
    pipeline = load_pipeline(config.run, config.checkpoint).to(device_of(config.device))
    pipeline.set_progress_bar_config(disable=True)
    benchmark = instantiate(config.benchmark)
    metrics, unavailable = usable(instantiate(config.metric))
    results = Results(metrics, unavailable, config.seed)
    settings = pipeline.settings(**OmegaConf.to_container(config.sampler))  # type: ignore[arg-type]  # its keys are names
    count = min(len(benchmark), config.limit or len(benchmark))
    known = captions_of(pipeline, benchmark, count)
    captions = {}
    for index in tqdm(range(count), desc=benchmark.name, unit="image"):
        batch = benchmark[index]
        size = (batch.hq.shape[-2], batch.hq.shape[-1])
        name = Path(batch.ids[0]).with_suffix("").as_posix()
        seed = sample_seed(config.seed, 0, batch.ids[0])
        restored = pipeline.restore(batch.lq, [known[index]], size, [seed], settings)
        captions[name] = restored.captions[0]
        pictures = {"restored": restored.images[0].cpu()}
        if restored.structure:
            pictures["processor"] = upscale(restored.structure[0], size)[0].cpu()
        files = {}
        for method, picture in {**pictures, "hq": batch.hq[0], "lq": batch.lq[0]}.items():
            files[method] = out / method / f"{name}.png"
            files[method].parent.mkdir(parents=True, exist_ok=True)
            write_image(files[method], to_picture(picture))
        base = ("processor" if "processor" in pictures else "bicubic") if config.noise_control else None
        results.add(measure_image(metrics, name, pictures, batch.hq[0], batch.lq[0], base), files)
    summary = results.write(out)
    (out / "captions.json").write_text(json.dumps(captions, indent=2, ensure_ascii=False) + "\n")
    if logger := instantiate(config.wandb):
        log_evaluation(logger, summary, results.rows(), out)
    log.info("%s\n%s", summary_table(summary), comparison_text(summary))
    return summary


def captions_of(pipeline: RestorationPipeline, benchmark: Benchmark, count: int) -> list[str]:
    """The captions of the first `count` photos: what came with them, else what the captioner says.

    A captioner that does not look decides over what came, as in training: an ablation without words gets none. One that
    looks is freed before diffusion needs the memory.

    Raises:
        CaptionError: a photo got no caption; measured without, it would pass for another method's.
    """
    captions = []
    with closing(pipeline.captioner) as captioner:
        for index in range(count):
            batch = benchmark[index]
            if captioner.sees:
                size = (batch.hq.shape[-2], batch.hq.shape[-1])
                captions.append(batch.captions[0] or pipeline.caption(batch.lq, size)[0])
            else:
                captions += captioner(batch.lq, batch.captions)
    return captions


def device_of(name: str) -> torch.device:
    """The device called "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps" ..."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

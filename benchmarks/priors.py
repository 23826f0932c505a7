"""What captions and image tokens are worth to a trained model: each photo with its own, and with another photo's.

    python benchmarks/priors.py [--weights DIR] [--limit N] [--seed N] PAIRS

PAIRS is a folder with LQ/ and HQ/. Four restorations of each photo: with its own priors, with the caption of the next
photo, without a caption, with the image tokens of the next photo. Printed are the means of LPIPS, DISTS and PSNR-Y, and
how much the own prior gains, with the 95 % interval of a bootstrap over the photos.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sspir.errors import UserError
from sspir.evaluation.statistics import compare
from sspir.images.io import list_images, read_image
from sspir.metrics.base import FullReferenceMetric
from sspir.metrics.distance import PerceptualMetric
from sspir.metrics.psnr_ssim import PSNR
from sspir.models.latent import upscale
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.saved import SHIPPED
from sspir.weights.load import load_pipeline


def values_of(pipe: RestorationPipeline, pairs: Path, limit: int | None, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Name of the priors -> metric -> values per photo."""
    metrics: dict[str, FullReferenceMetric] = {
        "LPIPS": PerceptualMetric("lpips"), "DISTS": PerceptualMetric("dists"), "PSNR-Y": PSNR()
    }  # fmt: skip
    for name in ("LPIPS", "DISTS"):
        metrics[name].require()
    files = list_images(pairs / "LQ")[:limit]
    given = [read_image(file).tensor()[None] for file in files]
    captions = [pipe.caption(lq, pipe.size_of(lq))[0] for lq in given]
    shown: list[Tensor] = []  # to the image encoder instead of the photo, where there is one
    pipe.image_encoder.register_forward_pre_hook(lambda module, arguments: (*shown,) or None)
    found: dict[str, dict[str, list[float]]] = {}
    for number, (file, lq) in enumerate(tqdm(zip(files, given, strict=True), total=len(files), unit="photo")):
        other = (number + 1) % len(files)
        hq = read_image(pairs / "HQ" / file.name).tensor()[None]
        for name, caption, image in (
            ("its own", captions[number], None),
            ("another's caption", captions[other], None),
            ("no caption", "", None),
            ("another's image tokens", captions[number], given[other]),
        ):
            shown[:] = [] if image is None else [upscale(image, pipe.size_of(image))]
            restored = pipe.restore(lq, [caption], (hq.shape[-2], hq.shape[-1]), [seed]).images
            for metric, function in metrics.items():
                value = function.score(restored.clamp(0, 1), hq).item()
                found.setdefault(name, {}).setdefault(metric, []).append(value)
    return {name: {metric: np.array(column) for metric, column in few.items()} for name, few in found.items()}


def main() -> int:
    """Restore, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="a folder with LQ/ and HQ/")
    parser.add_argument("--weights", default=str(SHIPPED), help="run folder or pipeline (default: the shipped model)")
    parser.add_argument("--limit", type=int, help="photos (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the restorations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if len(list_images(options.pairs / "LQ")[: options.limit]) < 2:
        parser.error("another photo's priors take two photos or more")
    pipe = load_pipeline(options.weights)
    pipe.set_progress_bar_config(disable=True)
    found = values_of(pipe, options.pairs, options.limit, options.seed)
    own = found["its own"]
    for name, columns in found.items():
        means = ", ".join(f"{metric} {column.mean():.4f}" for metric, column in columns.items())
        sys.stdout.write(f"{name}: {means}\n")
        if columns is own:
            continue
        for metric, column in columns.items():
            sign = 1 if metric == "PSNR-Y" else -1
            gain = compare(sign * own[metric], sign * column)
            told = f"{gain.gain.mean:+.4f} [{gain.gain.low:+.4f}, {gain.gain.high:+.4f}]"
            sys.stdout.write(f"    its own gains {told} {metric}, better on {gain.win_rate:.0%} of the photos\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))

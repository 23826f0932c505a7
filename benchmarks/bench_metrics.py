"""Speed and memory of measuring: `python benchmarks/bench_metrics.py [PAIRS]`.

Writes that many 512 x 512 pairs, measures them with every metric that needs no weights through `sspir compare`, and
prints seconds, peak memory, and the cost of each metric. Where pyiqa is installed (its NIQE needs its weights, or
any file of the same format), its PSNR and SSIM run beside ours, with the largest difference of the values. LPIPS, where
its weights are here, runs beside torchmetrics' and, where it is installed, beside that of its authors (lpips 0.1.4).
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image.lpips import _NoTrainLpips

from sspir.__main__ import main
from sspir.commands.compare import load_metrics
from sspir.metrics.base import usable
from sspir.metrics.psnr_ssim import psnr, ssim
from sspir.perceptual.weights import MissingWeightsError, load_distance


def write_pairs(root: Path, count: int) -> None:
    """Photos and noisy copies of them; crops of scikit-image's photos, so that PNG and metrics have real work."""
    from skimage import data

    photos = [np.asarray(data.astronaut()), np.asarray(data.astronaut())[:, ::-1], np.asarray(data.astronaut())[::-1]]
    rng = np.random.default_rng(0)
    for i in range(count):
        hq = np.roll(photos[i % 3], (17 * i, 29 * i), axis=(0, 1))
        noisy = np.clip(hq + rng.normal(0, 8, hq.shape), 0, 255).astype(np.uint8)
        for role, picture in (("hq", hq), ("ours", noisy)):
            (root / role).mkdir(exist_ok=True)
            Image.fromarray(np.ascontiguousarray(picture)).save(root / role / f"{i:05}.png", compress_level=1)


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of one call, the best of several."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def cost_of_each(preds: Tensor, target: Tensor) -> None:
    """Print CPU seconds per image of every metric on one thread."""
    metrics, _ = usable(load_metrics(["all"]))
    for name, metric in metrics.items():
        images = (preds, target) if metric.needs_reference else (preds,)
        metric.score(*images)
        sys.stdout.write(f"{name:16}{seconds(lambda m=metric, i=images: m.score(*i)):8.3f} s\n")


def beside_pyiqa(preds: Tensor, target: Tensor) -> None:
    """Print ours against pyiqa's in one run: seconds and the difference of the values."""
    try:
        import pyiqa
    except ImportError:
        sys.stdout.write("pyiqa is not installed: nothing to run beside.\n")
        return
    for name, ours in (("psnr", psnr), ("ssim", ssim)):
        theirs = pyiqa.create_metric(name, test_y_channel=True, color_space="ycbcr", device=torch.device("cpu"))
        difference = abs(ours(preds, target).item() - theirs(preds, target).item())
        times = [seconds(lambda measure=measure: measure(preds, target)) for measure in (ours, theirs)]
        sys.stdout.write(f"{name}: ours {times[0]:.3f} s, pyiqa {times[1]:.3f} s, difference {difference:.1e}\n")


def beside_lpips(preds: Tensor, target: Tensor) -> None:
    """Print ours against torchmetrics' and the authors' with equal weights in one run: seconds, ratio, difference."""
    for name, net in (("lpips", "alex"), ("lpips_vgg", "vgg")):
        try:
            ours = load_distance(name)
        except MissingWeightsError as error:
            sys.stdout.write(f"{error}\n")
            continue
        others = {"torchmetrics": _NoTrainLpips(net=net, pnet_rand=True)}
        with suppress(ImportError):
            import lpips

            others["lpips"] = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        for theirs in others.values():
            theirs.train(False).requires_grad_(False)
            convolutions = [module for module in theirs.net.modules() if isinstance(module, torch.nn.Conv2d)]
            for mine, other in zip(ours.features.convolutions, convolutions, strict=True):
                other.load_state_dict(mine.state_dict())
        calls = {"ours": lambda net=ours: net(preds, target)}
        calls |= {key: lambda net=each: net(preds, target, normalize=True) for key, each in others.items()}
        taken = dict.fromkeys(calls, math.inf)
        for _ in range(5):  # in turn, so that what else the machine does meets all
            taken = {key: min(taken[key], seconds(call, 1)) for key, call in calls.items()}
        for key in others:
            difference = abs(calls["ours"]().item() - calls[key]().item())
            sys.stdout.write(
                f"{name}: ours {taken['ours']:.3f} s, {key} {taken[key]:.3f} s, "
                f"ratio {taken[key] / taken['ours']:.2f}, difference {difference:.1e}\n"
            )


def bench() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="?", type=int, default=100)
    count = parser.parse_args().pairs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root, count)
        start, cpu = time.perf_counter(), time.process_time()
        main(["compare", "--hq", f"{root}/hq", "--method", f"ours={root}/ours", "--out", f"{root}/out"])
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(f"{count} pairs: {wall:.1f} s wall, {cpu:.1f} s CPU, peak memory {peak:.0f} MiB\n")
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 1024, 1024, generator=generator), 2)
    preds = (target + 0.03 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    target, preds = (image.mul(255).round() / 255 for image in (target, preds))  # as if read from files
    cost_of_each(preds, target)
    beside_pyiqa(preds, target)
    beside_lpips(preds, target)


if __name__ == "__main__":
    bench()

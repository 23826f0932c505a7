"""How good a small model's pictures are, beside a linear filter and the peers that run on a CPU.

    python benchmarks/quality.py [--weights DIR] [--peers NAME ...] [--out runs/quality] [--limit N] [SET ...]

Restores Set14, Urban20 and the validation photos under `light` and `realesrgan_strong`, and two sets of real pairs
($SSPIR_DATA holds them), by `sspir evaluate`, with the peers on the same pictures. All of it, and a linear filter, is
measured by `sspir compare`; in OUT/SET/control the default setting alone, with noise at its PSNR over the Processor's
picture beside it. What each method costs is in OUT/cost. Peers need `sspir weights get` and 'sspir[peers]'.

The linear filter is the 5 x 5 one that is best in closed form on the training photos under the same degradation (under
`light` for real pairs).
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from sspir.__main__ import main as sspir
from sspir.config.compose import compose_config, load_choice
from sspir.data import photos
from sspir.errors import UserError
from sspir.evaluation import Benchmark
from sspir.images.io import read_image, write_image
from sspir.images.panel import panel, stack, to_picture
from sspir.models.latent import upscale
from sspir.training.saved import SHIPPED

SYNTHETIC = ("set14", "urban20", "photos_val")
DEGRADATIONS = ("light", "realesrgan_strong")
SETS = {f"{name}_{kind}": (name, kind) for kind in DEGRADATIONS for name in SYNTHETIC}
SETS |= {name: (name, "light") for name in ("realsr_dev", "drealsr_dev")}  # real pairs bring their own
PEERS = ("realesrgan", "span", "span_ch48")
Filter = Callable[[Tensor], Tensor]  # lq (1, 3, h, w) -> (1, 3, 4h, 4w)


def run(*arguments: str) -> None:
    """Run a command of sspir, and end with its status where it fails; pictures of before would be taken for its own."""
    if (status := sspir(arguments)) not in (0, 1):  # 1: something was left out, which is named
        sys.exit(status)


def changes_of(name: str) -> list[str]:
    """A set as overrides of `sspir evaluate`."""
    benchmark, kind = SETS[name]
    changed = [] if benchmark.endswith("_dev") else [f"degradation@benchmark.degradation={kind}"]
    return [f"benchmark={benchmark}", *changed]


def linear_filter(kind: str, count: int = 200) -> Filter:
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

    def apply(lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        pixels = (_neighbours(lq) @ weights).view(3, height * width, 16).transpose(1, 2)
        return F.pixel_shuffle(pixels.reshape(3, 16, height, width), 4).transpose(0, 1).clamp(0, 1)

    return apply


def _neighbours(lq: Tensor) -> Tensor:
    """(1, 3, h, w) -> (3 h w, 26): every pixel's 5 x 5 neighbours, and 1."""
    padded = F.pad(lq, (2, 2, 2, 2), mode="replicate").transpose(0, 1)
    rows = F.unfold(padded, 5).transpose(1, 2).flatten(0, 1)
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def restore_set(name: str, options: argparse.Namespace, linear: Filter) -> dict[str, Path]:
    """Restore a set with every method; returns the methods' folders. What is done is not done again."""
    folder, given = options.out / name, [f"run={options.weights}", f"checkpoint={options.checkpoint}", "wandb=null"]
    given += [*changes_of(name), "metric=fast", *([f"limit={options.limit}"] if options.limit else [])]
    default = folder / "default"
    run("evaluate", *given, f"out={default}", f"peers=[{','.join(options.peers)}]")
    benchmark = instantiate(compose_config("evaluate", changes_of(name)).benchmark)
    for index in tqdm(range(min(len(benchmark), options.limit or len(benchmark))), desc="linear", unit="image"):
        batch = benchmark[index]
        target = folder / "linear" / Path(batch.ids[0]).with_suffix(".png")
        write_image(target, to_picture(linear(batch.lq)[0]))
    methods = {method: default / method for method in ("processor", "restored", *options.peers)}
    return {**methods, "linear": folder / "linear"}


def sheet(
    out: Path, names: Sequence[str], peers: Sequence[str], count: int = 20, worst: int = 10, side: int = 160
) -> Image.Image:
    """Middles of pictures at their true size: those furthest behind the best peer in LPIPS, and every so many others.

    Without peers bicubic is what they are behind. A picture without one of the Processor, as those restored in regions
    are, is left out.
    """
    behind = []
    for name in names:
        with (out / name / "per_image.csv").open() as file:
            lpips = {(row["image"], row["method"]): float(row["lpips"]) for row in csv.DictReader(file)}
        for stem in sorted({image for image, method in lpips if method == "processor"}):
            rival = min(peers or ["bicubic"], key=lambda method: lpips[stem, method])
            told = f"{name} {stem}: LPIPS {lpips[stem, 'restored']:.3f}, {rival} {lpips[stem, rival]:.3f}"
            behind.append((lpips[stem, "restored"] - lpips[stem, rival], name, stem, told))
    behind.sort(reverse=True)
    rest = behind[worst:]
    others = min(count - worst, len(rest))
    chosen = behind[:worst] + [rest[number * len(rest) // others] for number in range(others)]
    rows = []
    for _, name, stem, told in chosen:
        shown = ("lq", *peers, "processor", "restored", "hq")
        folder = out / name / "default"
        images = {method: read_image(folder / method / f"{stem}.png").tensor() for method in shown}
        height, width = images["hq"].shape[-2:]
        images["lq"] = upscale(images["lq"][None], (height, width))[0]
        top, left = max(0, height - side) // 2, max(0, width - side) // 2
        middles = {method: image[:, top : top + side, left : left + side] for method, image in images.items()}
        small, truth = middles.pop("lq"), middles.pop("hq")
        rows.append(panel({"bicubic": small, **middles, "truth": truth}, told))
    half = -(-len(rows) // 2)
    return beside([stack(part) for part in (rows[:half], rows[half:]) if part])


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
    parser.add_argument("--peers", nargs="*", default=PEERS, help="names in conf/peer (default: all that come along)")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--limit", type=int, help="images per set")
    parser.add_argument("--workers", default=2, type=int, help="of the measuring")
    parser.add_argument(
        "--metrics", nargs="+", help="lpips alone, say, which the sheet of pictures needs (default: all)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = options.sets or list(SETS)
    filters = {kind: linear_filter(kind) for kind in DEGRADATIONS}
    for name in sets:
        folder = options.out / name
        methods = restore_set(name, options, filters[SETS[name][1]])
        given = [f"--method={method}={place}" for method, place in methods.items()]
        truth = ["--hq", str(folder / "default" / "hq"), "--workers", str(options.workers)]
        truth += ["--metrics", *options.metrics] if options.metrics else []
        run("compare", *given, *truth, "--lq", str(folder / "default" / "lq"), "--out", str(folder))
        control = [text for text in given if "=processor=" in text or "=restored=" in text]
        run("compare", *control, *truth, "--noise-control", "processor", "--out", str(folder / "control"))
    cost = [f"run={options.weights}", f"checkpoint={options.checkpoint}", *changes_of(sets[0]), "limit=1", "cost=true"]
    peers = f"peers=[{','.join(options.peers)}]"
    run("evaluate", *cost, peers, "metric=fast", "wandb=null", f"out={options.out / 'cost'}")
    heads = [(options.out / name / "per_image.csv").read_text().partition("\n")[0] for name in sets]
    if all("lpips" in head.split(",") for head in heads):
        sheet(options.out, sets, options.peers).save(options.out / "sheet.jpg", quality=88)
    else:
        sys.stderr.write("There is no sheet of pictures: it shows the worst by LPIPS, which was not measured.\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))

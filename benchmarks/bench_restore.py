"""What restoring costs and does, on one core; every comparison is of one run.

    python benchmarks/bench_restore.py [loops] [--quick] | attention | compile | operations
    python benchmarks/bench_restore.py steps|fidelity PAIRS [--weights DIR] [--limit N]
    python benchmarks/bench_restore.py seams|colours PHOTOS [--weights DIR] [--limit N]
    python benchmarks/bench_restore.py sizes [--weights DIR]

- loops: the plain loop (every prior computed anew at each step, both halves of guidance whole) beside ours, in float32
  and bfloat16, for the tiny model and for one of Stable Diffusion 1.5's shape at a tenth of the width, random weights:
  CPU-seconds per image as ratios, and the largest difference of the results in levels of 255;
- compile: loops, and ours compiled in bfloat16, with what compiling costs;
- attention: torch's kernel beside ours in bfloat16, for the shapes of Stable Diffusion 1.5 at 512 x 512 pixels;
- operations: how many a denoising step of Stable Diffusion's shape sends to a device, views apart, by torch's own
  attention, which a GPU has: each of them is launched by Python;
- steps: 50 ancestral steps beside few-step settings on pairs (a folder with LQ/ and HQ/), of a model of many steps:
  CPU-seconds and metrics, and what differs significantly (95 % paired bootstrap);
- fidelity: metrics on pairs as `--fidelity` rises from 0 to 1;
- seams: how much larger steps between pixels are across the borders of tiles than beside them, on photos;
- colours: how far the colours of the results are from the photos' before and after each colour fix;
- sizes: peak memory and CPU-seconds for results of 512 to 4,096 pixels on a side, each in a process of its own.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what compiling costs, it costs every time

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sspir.color import ColourMode, fix_colour
from sspir.config.compose import compose_config
from sspir.encoders.clip import CLIPImageEncoder
from sspir.encoders.text import TextEncoder, encode_captions
from sspir.errors import UserError
from sspir.evaluation.results import describe
from sspir.evaluation.statistics import compare, orient
from sspir.images.io import list_images, read_image
from sspir.memory import peak_bytes, reset_peak
from sspir.metrics.detail import GradientRatio
from sspir.metrics.distance import PerceptualMetric
from sspir.metrics.grid import Grid
from sspir.metrics.niqe import NIQE
from sspir.metrics.psnr_ssim import PSNR, SSIM
from sspir.metrics.structural import GMSD, VIF, HaarPSI
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.cpu_attention import bf16_attention
from sspir.models.latent import channels_of, decode_latents, encode_latents, factor_of, upscale
from sspir.models.refine import RefineLayer
from sspir.models.structure_processor import StructureProcessor
from sspir.models.tiling import tiles_of
from sspir.sampling.loop import Predictor, Priors, predict
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler
from sspir.training.run import build_module
from sspir.weights.load import load_pipeline


def tiny() -> RestorationPipeline:
    """The tiny experiment, untrained."""
    return build_module(compose_config("train", ["experiments=tiny"])).eval().pipeline


def stable_diffusion_shaped() -> RestorationPipeline:
    """Stable Diffusion 1.5's U-Net, ControlNet and autoencoder at a tenth of the width."""
    torch.manual_seed(0)
    unet = {
        "block_out_channels": (32, 64, 128, 128),
        "attention_head_dim": (1, 2, 4, 4),  # heads, in diffusers' words: 32 channels each, about those of the original
        "cross_attention_dim": 80,
        "norm_num_groups": 16,
    }
    processor = StructureProcessor((2, 3, 10, 26))
    backbone = ControlledUNet.from_unet(UNet2DConditionModel(**unet), processor, image_dim=52, train_unet=True).eval()
    vae = AutoencoderKL(
        block_out_channels=(12, 24, 52, 52), layers_per_block=2, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    text = TextEncoder.tiny(80, 12, 4)
    return RestorationPipeline.from_parts(
        backbone, Sampler(), vae=vae, tokenizer=text.tokenizer, text_encoder=text.model,
        image_encoder=CLIPImageEncoder(dim=104, depth=24, heads=8).eval(), refine=RefineLayer(104, 52).eval(),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False),
    )  # fmt: skip


@torch.no_grad()
def plain(pipe: RestorationPipeline, lq: Tensor, caption: str, settings: Sampler) -> Tensor:
    """The loop as it is usually written; see the top of the file."""
    image = upscale(lq, pipe.size_of(lq))
    generator = torch.Generator().manual_seed(0)
    scheduler, timesteps = settings.build(pipe.scheduler)
    residual = pipe.config.residual
    _, structure = pipe.backbone.structure(image)
    base = encode_latents(pipe.vae, (structure[0] / 2 + 0.5).clamp(0, 1)) if residual else 0.0
    known = torch.zeros_like(base) if isinstance(base, Tensor) else encode_latents(pipe.vae, image, generator)
    noise = torch.randn(known.shape, generator=generator)
    latents = scheduler.add_noise(known, noise, timesteps[:1])
    for timestep in timesteps:
        prompts = encode_captions(pipe.tokenizer, pipe.text_encoder, [settings.negative_caption, caption])
        twice = image.repeat(2, 1, 1, 1)
        tokens = pipe.refine(pipe.image_encoder(twice))
        features, _ = pipe.backbone.structure(twice)
        scaled = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1)
        without, with_text = pipe.backbone.predict(scaled, timestep, prompts, tokens, features).chunk(2)
        predicted = without + settings.guidance * (with_text - without)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    return decode_latents(pipe.vae, base + latents / (residual or 1.0)).clamp(0, 1)


def timed(function: Any) -> tuple[float, Tensor]:
    """CPU-seconds of a call, and what it returned."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def compare_loops(
    name: str, pipe: RestorationPipeline, side: int, steps: int, rounds: int, compiled: RestorationPipeline | None
) -> None:
    """Print plain against ours, the rounds interleaved, the fastest of each."""
    lq = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    lq = torch.nn.functional.interpolate(lq, (side // 4, side // 4), mode="bicubic").clamp(0, 1)
    caption, scheduler = "a house by the sea", "DPMSolverMultistepScheduler"
    settings = Sampler(
        scheduler=scheduler, steps=steps, start=300, guidance=5.5, negative_caption="blur", colour="none", tile=None
    )
    ways = {"float32": pipe, "bfloat16": pipe}
    if compiled:
        ways["bfloat16, compiled"] = compiled.in_dtype("bfloat16")
        started = time.perf_counter()  # in processes of its own
        compiled.restore(lq, [caption], None, [0], settings)
        sys.stdout.write(f"{name}: compiling takes {time.perf_counter() - started:.0f} s" + "\n")
    seconds: dict[str, list[float]] = {way: [] for way in ("plain", *ways)}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        took, results["plain"] = timed(lambda: plain(pipe.in_dtype(torch.float32), lq, caption, settings))
        seconds["plain"].append(took)
        for way, used in ways.items():
            used.in_dtype(way.split(",")[0])
            took, results[way] = timed(lambda: used.restore(lq, [caption], None, [0], settings).images)  # noqa: B023
            seconds[way].append(took)
    best = {way: min(values) for way, values in seconds.items()}
    sys.stdout.write(f"{name}, {side} x {side}, {steps} steps: plain {best['plain']:.2f} CPU-s per image" + "\n")
    for way in ways:
        difference = float((results[way] - results["plain"]).abs().max()) * 255
        sys.stdout.write(
            f"  ours in {way}: {best[way] / best['plain']:.2f}x, largest difference {difference:.4f} of 255" + "\n"
        )


@torch.no_grad()
def compare_attention(rounds: int = 8) -> None:
    """Print ours over torch's kernel for random heads, the rounds interleaved, and how far each is from the truth."""
    generator = torch.Generator().manual_seed(0)
    for heads, queries, keys, width in ((8, 4096, 4096, 40), (8, 1024, 1024, 80), (8, 4096, 256, 40)):
        query, key, value = (torch.randn(1, heads, n, width, generator=generator) for n in (queries, keys, keys))
        given = [tensor.bfloat16() for tensor in (0.5 * query, key, value)]
        truth = F.scaled_dot_product_attention(*(tensor.double() for tensor in given))
        seconds, errors = {}, {}
        for way in (F.scaled_dot_product_attention, bf16_attention) * rounds:
            took, found = timed(lambda: way(*given))  # noqa: B023
            seconds[way] = min(took, seconds.get(way, took))
            errors[way] = float((found - truth).norm() / truth.norm())
        (kernel, ours), (far, near) = seconds.values(), errors.values()
        sys.stdout.write(
            f"{heads} heads of {width}, {queries} x {keys}: {ours / kernel:.2f}x, error {near:.4f} (kernel {far:.4f})\n"
        )


class Operations(TorchDispatchMode):
    """Counts operations that compute or copy; a view costs a device nothing.

    Attributes:
        count: of them.
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {part.untyped_storage()._cdata for part in tree_leaves(args) if isinstance(part, Tensor)}
        parts = [part for part in tree_leaves(made) if isinstance(part, Tensor)]
        shares = all(part.untyped_storage()._cdata in given for part in parts)
        self.count += func._schema.is_mutable or not shares
        return made


@torch.no_grad()
def count_operations(pipe: RestorationPipeline) -> None:
    """Print the operations of a step, with guidance and without."""
    lq = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features, _ = pipe.backbone.structure(lq)
    tokens = pipe.refine(pipe.image_encoder(lq))
    latents = torch.zeros(1, channels_of(pipe.vae), *features.shape[-2:])
    for name, captions, guidance in (("guided", ["blur", "a house"], 5.5), ("not guided", ["a house"], 1.0)):
        texts = encode_captions(pipe.tokenizer, pipe.text_encoder, captions)
        predictor = Predictor(pipe.backbone, Sampler(guidance=guidance, tile=None), Priors(texts, tokens, features))
        predict(predictor, latents, torch.tensor(500))  # as every step but the first
        with Operations() as counter:
            predict(predictor, latents, torch.tensor(400))
        sys.stdout.write(f"a step, {name}: {counter.count} operations\n")


ANCESTRAL: dict[str, Any] = {"scheduler": "DDPMScheduler", "options": {}}
UNIPC: dict[str, Any] = {"scheduler": "UniPCMultistepScheduler", "options": {}}
FEW: dict[str, dict[str, Any]] = {
    "50 ancestral steps": {**ANCESTRAL, "steps": 50},
    "8 steps of UniPC, fidelity 0.3": {**UNIPC, "steps": 8, "fidelity": 0.3},
    "the model's own": {},
    "the model's own, fidelity 0.5": {"fidelity": 0.5},
    "8 steps of UniPC": {**UNIPC, "steps": 8},
}
FIDELITY: dict[str, dict[str, Any]] = {
    f"fidelity {value}": {"fidelity": value} for value in (0.0, 0.25, 0.5, 0.75, 1.0)
}


def compare_settings(pipe: RestorationPipeline, settings: dict[str, dict[str, Any]], pairs: Path, limit: int) -> None:
    """Print cost and quality of several settings on pairs, and what is significantly better or worse than the first."""
    metrics = {
        "PSNR-Y": PSNR(), "SSIM-Y": SSIM(), "LPIPS": PerceptualMetric("lpips"), "DISTS": PerceptualMetric("dists"),
        "VIF": VIF(), "HaarPSI": HaarPSI(), "GMSD": GMSD(), "gradient ratio": GradientRatio(), "NIQE": NIQE(),
        "grid": Grid(4),
    }  # fmt: skip
    for distance in (metrics["LPIPS"], metrics["DISTS"]):
        distance.require()
    files = list_images(pairs / "LQ")[:limit]
    first: tuple[float, dict[str, np.ndarray]] | None = None
    for name, changes in settings.items():
        chosen, seconds = pipe.settings(**changes), 0.0
        values: dict[str, list[float]] = {metric: [] for metric in metrics}
        for file in files:
            lq, hq = read_image(file).tensor()[None], read_image(pairs / "HQ" / file.name).tensor()[None]
            captions = pipe.caption(lq, pipe.size_of(lq))
            took, restored = timed(lambda: pipe.restore(lq, captions, None, [0], chosen).images)  # noqa: B023
            seconds += took
            for metric, function in metrics.items():
                function.reset()
                function.update(*((restored,) if metric in ("NIQE", "grid") else (restored, hq)))
                values[metric].append(float(function.compute()))
        found = {metric: np.array(column) for metric, column in values.items()}
        first = first or (seconds, found)
        told = ", ".join(f"{metric} {column.mean():.3f}" for metric, column in found.items())
        sys.stdout.write(f"{name}: {seconds / len(files):.2f} CPU-s, {seconds / first[0]:.2f}x, {told}\n")
        for metric, column in found.items():
            sys.stdout.write(verdict(metric, describe(metrics[metric]), column, first[1][metric]))


def verdict(name: str, facts: dict[str, Any], values: np.ndarray, first: np.ndarray) -> str:
    """A line that says by how much values of a metric are better or worse than the first ones; "" where they are not.

    Of a ratio, which is best at its ideal, the difference is that of its distance in logarithms.
    """
    difference = compare(orient(facts, values), orient(facts, first))
    if not difference.significant:
        return ""
    low, high = difference.gain.low, difference.gain.high
    return f"    {name} {'better' if low > 0 else 'worse'} by {low:+.3f} to {high:+.3f}\n"


def compare_borders(pipe: RestorationPipeline, photos: Path, limit: int) -> None:
    """Print the mean step between pixels across the borders of tiles over that beside them, with and without tiles."""
    files, factor = list_images(photos)[:limit], factor_of(pipe.vae)
    for tile in (16, 32):
        ratios: dict[int | None, list[float]] = {tile: [], None: []}
        for file, (used, found) in itertools.product(files, ratios.items()):
            lq = read_image(file).tensor()[None, :, :128, :128]
            settings = pipe.settings(tile=used, overlap=tile // 4)
            image = pipe.restore(lq, pipe.caption(lq, pipe.size_of(lq)), None, [0], settings).images[0]
            for turned in (image, image.transpose(1, 2)):
                length = turned.shape[-1] // factor
                starts = {x for _, x in tiles_of(tile, length, tile, tile // 4)}
                borders = [factor * b for b in sorted(starts | {x + tile for x in starts}) if 4 <= b <= length - 4]
                found.append(step_across(turned, borders, factor))
        inside, whole = (sum(found) / len(found) for found in ratios.values())
        sys.stdout.write(f"tiles of {tile * factor} pixels: {inside:.3f}, untiled at the same places {whole:.3f}\n")


def step_across(image: Tensor, borders: list[int], factor: int) -> float:
    """Mean difference of columns across borders over that beside them, at the same place of a block of latents."""
    steps = image.diff(dim=2).abs().mean(dim=(0, 1))
    across = torch.stack([steps[border - 1] for border in borders]).mean()
    beside = torch.stack([steps[border - 1 + factor * k] for border in borders for k in (-3, -2, 2, 3)]).mean()
    return float(across / beside)


def compare_sizes(weights: str) -> None:
    """Print peak memory and CPU-seconds of results of several sizes, as ratios to those of 1,024 pixels."""
    found = {}
    for side in (512, 1024, 2048, 4096):
        command = [sys.executable, __file__, "size", str(side), "--weights", weights]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        found[side] = [float(value) for value in told.split()]
    memory, seconds = found[1024]
    for side, (peak, took) in found.items():
        sys.stdout.write(
            f"{side} x {side}: peak {peak:.0f} MiB, {peak / memory:.2f}x that at 1024; {took:.1f} CPU-s, "
            f"{took / seconds * (1024 / side) ** 2:.2f}x per pixel\n"
        )


def one_size(pipe: RestorationPipeline, side: int) -> None:
    """Print peak MiB of the process and CPU-seconds of one restoration, the second one of the process."""
    generator = torch.Generator().manual_seed(0)
    for length in (256, side):
        lq = upscale(torch.rand(1, 3, 16, 16, generator=generator), (length // 4, length // 4))
        reset_peak(torch.device("cpu"))
        took, _ = timed(lambda: pipe.restore(lq, ["a house"], None, [0]).images)  # noqa: B023
    sys.stdout.write(f"{peak_bytes(torch.device('cpu')) / 2**20} {took}\n")


def colour_shift(image: Tensor, lq: Tensor) -> tuple[float, float]:
    """Mean difference of colours, in levels of 255: of the whole images' means, and place by place.

    Args:
        image: (B, 3, H, W) in [0, 1].
        lq: (B, 3, h, w) in [0, 1]; places are a sixteenth of its width and of its height.
    """
    whole = image.mean(dim=(2, 3)) - lq.mean(dim=(2, 3))
    local = F.interpolate(image, (16, 16), mode="area") - F.interpolate(lq, (16, 16), mode="area")
    return float(whole.abs().mean()) * 255, float(local.abs().mean()) * 255


def compare_colours(pipe: RestorationPipeline, photos: Path, limit: int) -> None:
    """Print the mean colour shift without a colour fix and after each."""
    files = list_images(photos)[:limit]
    shifts: dict[str, list[tuple[float, float]]] = {mode: [] for mode in get_args(ColourMode)}
    for file in files:
        lq = read_image(file).tensor()[None, :, :128, :128]
        size = pipe.size_of(lq)
        restored = pipe.restore(lq, pipe.caption(lq, size), size, [0], pipe.settings(colour="none")).images
        for mode, shift in shifts.items():
            shift.append(colour_shift(fix_colour(restored, upscale(lq, size), mode, 1.0), lq))
    sys.stdout.write(f"mean colour shift of {len(files)} photos in levels of 255: whole, place by place\n")
    for mode, found in shifts.items():
        whole, local = (sum(column) / len(files) for column in zip(*found, strict=True))
        sys.stdout.write(f"  {mode:<8}{whole:7.3f}{local:7.3f}\n")


def main() -> None:
    """Parse the flags and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = ("loops", "attention", "compile", "steps", "fidelity", "seams", "colours", "sizes", "size", "operations")
    parser.add_argument("what", nargs="?", choices=what, default="loops", help="what to compare")
    parser.add_argument("given", nargs="?", help="PAIRS or PHOTOS, see above")
    parser.add_argument("--quick", action="store_true", help="loops: small images, few steps")
    parser.add_argument("--weights", default="shipped/tiny", help="a trained model (default: shipped/tiny)")
    parser.add_argument("--limit", type=int, default=6, help="pairs or photos to restore")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what in ("loops", "compile"):
        side, steps, rounds = (128, 4, 1) if options.quick else (256, 12, 3)
        for name, make, lengths in (
            ("tiny model", tiny, (side,)),
            ("Stable Diffusion's shape, a tenth as wide", stable_diffusion_shaped, (side, 2 * side)),
        ):
            for length in lengths if options.what == "loops" else (side,):
                compiled = make().compiled() if options.what == "compile" else None
                compare_loops(name, make(), length, steps, rounds, compiled)
        return
    if options.what == "attention":
        compare_attention()
        return
    if options.what == "operations":
        count_operations(stable_diffusion_shaped())
        return
    if options.what == "sizes":
        compare_sizes(options.weights)
        return
    if not options.given:
        parser.error(f"{options.what} needs a folder")
    pipe = load_pipeline(options.weights)
    pipe.set_progress_bar_config(disable=True)
    if options.what == "size":
        one_size(pipe, int(options.given))
    elif options.what == "seams":
        compare_borders(pipe, Path(options.given), options.limit)
    elif options.what == "colours":
        compare_colours(pipe, Path(options.given), options.limit)
    else:
        settings = FEW if options.what == "steps" else FIDELITY
        compare_settings(pipe, settings, Path(options.given), options.limit)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))

"""Speed of restoring: `python benchmarks/bench_restore.py [--quick] [--weights DIR] [--pairs DIR] [--colours DIR]`.

Prints CPU-seconds per image in one run on one core, as ratios to the plain way, with the largest difference of the
results in levels of 255:
- the plain loop (every prior computed anew at each step, both halves of guidance whole) beside ours, in float32 and
  bfloat16, for the tiny model and for one of Stable Diffusion 1.5's shape at a tenth of the width, random weights;
- instead of these, with `--pairs` (a folder with LQ/ and HQ/), 50 ancestral steps of a trained model beside its own
  few-step setting and others: CPU-seconds and metrics;
- instead of these, with `--colours` (a folder of photos), how far the colours of the results are from the photos'
  before and after each colour fix.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, get_args

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from sspir.color import ColourMode, fix_colour
from sspir.config import compose_config
from sspir.images.io import list_images, read_image
from sspir.metrics.fidelity import PSNR, SSIM
from sspir.metrics.niqe import NIQE
from sspir.metrics.perceptual import GMSD, VIF, HaarPSI
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import decode, encode, upscale
from sspir.models.structure_processor import StructureProcessor
from sspir.pipeline import RestorationPipeline
from sspir.priors.image_encoder import CLIPImageEncoder, RefineLayer
from sspir.priors.text_encoder import TextEncoder, encode_captions
from sspir.run import build_module
from sspir.sampling.sampler import Sampler
from sspir.weights import SHIPPED, load_pipeline


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
    backbone = ControlledUNet.from_scratch(unet, StructureProcessor((2, 3, 10, 26)), image_dim=52).eval()
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
    base = encode(pipe.vae, (structure[0] / 2 + 0.5).clamp(0, 1)) if residual else 0.0
    known = torch.zeros_like(base) if isinstance(base, Tensor) else encode(pipe.vae, image, generator)
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
    return decode(pipe.vae, base + latents / (residual or 1.0)).clamp(0, 1)


def timed(function: Any) -> tuple[float, Tensor]:
    """CPU-seconds of a call, and what it returned."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def compare_loops(name: str, pipe: RestorationPipeline, side: int, steps: int, rounds: int) -> None:
    """Print plain against ours, the rounds interleaved, the fastest of each."""
    lq = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    lq = torch.nn.functional.interpolate(lq, (side // 4, side // 4), mode="bicubic").clamp(0, 1)
    caption, scheduler = "a house by the sea", "DPMSolverMultistepScheduler"
    settings = Sampler(
        scheduler=scheduler, steps=steps, start=300, guidance=5.5, negative_caption="blur", colour="none", tile=None
    )
    seconds: dict[str, list[float]] = {"plain": [], "float32": [], "bfloat16": []}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        took, results["plain"] = timed(lambda: plain(pipe.in_dtype(torch.float32), lq, caption, settings))
        seconds["plain"].append(took)
        for dtype in ("float32", "bfloat16"):
            pipe.in_dtype(dtype)
            took, results[dtype] = timed(lambda: pipe.restore(lq, [caption], None, [0], settings).images)
            seconds[dtype].append(took)
    best = {way: min(values) for way, values in seconds.items()}
    sys.stdout.write(f"{name}, {side} x {side}, {steps} steps: plain {best['plain']:.2f} CPU-s per image" + "\n")
    for dtype in ("float32", "bfloat16"):
        difference = float((results[dtype] - results["plain"]).abs().max()) * 255
        sys.stdout.write(
            f"  ours in {dtype}: {best[dtype] / best['plain']:.2f}x, largest difference {difference:.4f} of 255" + "\n"
        )


FEW = {
    "50 ancestral steps": {"scheduler": "DDPMScheduler", "steps": 50, "options": {}},
    "the model's own": {},
    "8 steps of UniPC": {"scheduler": "UniPCMultistepScheduler", "steps": 8, "options": {}},
    "4 steps of DPM++": {"scheduler": "DPMSolverMultistepScheduler", "steps": 4, "options": {}},
}


def compare_steps(pipe: RestorationPipeline, pairs: Path, limit: int) -> None:
    """Print cost and quality of 50 ancestral steps and of few-step settings on real pairs."""
    metrics = {"PSNR-Y": PSNR(), "SSIM-Y": SSIM(), "VIF": VIF(), "HaarPSI": HaarPSI(), "GMSD": GMSD(), "NIQE": NIQE()}
    files = list_images(pairs / "LQ")[:limit]
    reference = 0.0
    for name, changes in FEW.items():
        settings = pipe.settings(**changes)
        seconds = 0.0
        for metric in metrics.values():
            metric.reset()
        for file in files:
            lq, hq = read_image(file).tensor()[None], read_image(pairs / "HQ" / file.name).tensor()[None]
            captions = pipe.caption(lq, pipe.size_of(lq))
            took, restored = timed(lambda: pipe.restore(lq, captions, None, [0], settings).images)  # noqa: B023
            seconds += took
            for metric in metrics.values():
                metric.update(restored, hq)
        reference = reference or seconds
        told = ", ".join(f"{metric} {float(function.compute()):.3f}" for metric, function in metrics.items())
        sys.stdout.write(
            f"{name}: {seconds / len(files):.2f} CPU-s per image, {seconds / reference:.2f}x, {told}" + "\n"
        )


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
    parser.add_argument("--quick", action="store_true", help="small images, few steps")
    parser.add_argument("--weights", help="a trained model, for --pairs and --colours; without, the shipped one")
    parser.add_argument("--pairs", type=Path, help="a folder with LQ/ and HQ/")
    parser.add_argument("--colours", type=Path, help="a folder of photos, for the colour fixes")
    parser.add_argument("--limit", type=int, default=6, help="pairs or photos to restore")
    options = parser.parse_args()
    torch.set_num_threads(1)
    side, steps, rounds = (128, 4, 1) if options.quick else (256, 12, 2)
    if options.colours:
        compare_colours(load_pipeline(options.weights or SHIPPED), options.colours, options.limit)
        return
    if options.pairs:
        compare_steps(load_pipeline(options.weights or SHIPPED), options.pairs, options.limit)
        return
    compare_loops("tiny model", tiny(), side, steps, rounds)
    compare_loops("Stable Diffusion's shape, a tenth as wide", stable_diffusion_shaped(), 2 * side, steps, rounds)


if __name__ == "__main__":
    main()

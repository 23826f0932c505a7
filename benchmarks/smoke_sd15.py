"""Stable Diffusion 1.5 at its true size on a CPU: memory and time of training steps and of restoring in many and one.

    python benchmarks/smoke_sd15.py [--out runs/smoke_sd15.json] [--folder DIR]

Random weights of SD 1.5, CLIP ViT-L/14 and the autoencoder are saved as somebody's folders (6 GB) and loaded through
the code that a user's weights take. Each part runs in a process of its own, so that its peak is its own. Exit status 1
if a limit is exceeded. Needs 20 GiB of free memory and ten minutes or so; `--part count` needs neither, nor weights.
The part `lora` is the step of `experiments=ssp_ir_lora`, with one image of 256 x 256.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sspir.config.compose import compose_config
from sspir.memory import peak_bytes

GIB = 2**30
CPU = torch.device("cpu")
SIZE = 512  # pixels
STEPS = 50
LIMITS = {
    "count": {"ratio": 1 / 28},
    "train": {"peak_gib": 21.0},
    "lora": {"peak_gib": 20.0},
    "restore": {"peak_gib": 9.0},
    "step": {"fp32_ratio": 1.0, "bf16_ratio": 0.5, "one_step_ratio": 1 / 28},
}
# CPU seconds of the authors' ControlNet and U-Net for one such step, fp32, one thread; measured on a machine of this
# kind under load, with their modules at these widths. The same code takes 10 % more or less from one hour to the next:
# the limits are therefore on ratios to the plain step of this run, which computes what theirs does, layer for layer.
AUTHORS = 6.6 + 21.8


def settings(folder: Path, experiment: str = "ssp_ir") -> Any:
    """An experiment on the folders, with what is frozen in half precision."""
    half = ("backbone", "text_encoder", "image_encoder", "vae")
    return compose_config(
        "train",
        [
            f"experiments={experiment}", "trainer=cpu", "trainer.precision=bf16-mixed", "captioner=none",
            "batch_size=1", "callbacks.ema=null", f"backbone.path={folder / 'sd'}",
            f"image_encoder.path={folder / 'clip'}", *(f"{part}.dtype=bfloat16" for part in half),
        ],
    )  # fmt: skip


def module_of(config: Any) -> Any:
    """The module to train, without metrics."""
    from sspir.training.run import build_module

    config.module.metrics = {}
    return build_module(config)


def prepare(folder: Path) -> dict[str, float]:
    """Save everything with random weights."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    from sspir.pretrained.hub import SHAPES

    torch.manual_seed(0)
    for kind, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        config = kind.load_config(SHAPES / "sd15" / name)
        kind.from_config(config).to(torch.bfloat16).save_pretrained(folder / "sd" / name)
    DDPMScheduler.from_pretrained(SHAPES / "sd15", subfolder="scheduler").save_pretrained(folder / "sd" / "scheduler")
    text = json.loads((SHAPES / "sd15" / "text_encoder" / "config.json").read_text())
    CLIPTextModel(CLIPTextConfig(**text)).to(torch.bfloat16).save_pretrained(folder / "sd" / "text_encoder")
    vision = json.loads((SHAPES / "clip_vit_l14" / "config.json").read_text())["vision_config"]
    CLIPVisionModel(CLIPVisionConfig(**vision)).to(torch.bfloat16).save_pretrained(folder / "clip")
    pipeline = module_of(settings(folder)).pipeline
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, torch.bfloat16)
    pipeline.save_pretrained(folder / "pipeline")
    return {}


def count(folder: Path) -> dict[str, float]:
    """Floating-point operations, in 10^12, of restoring in one step and in guided steps, without any weights.

    Plain: a guided step calls the denoiser for both halves, and nothing is kept from step to step.
    """
    from torch._subclasses import FakeTensorMode
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from sspir.doctor.needs import shapes
    from sspir.models.latent import decode_latents, encode_latents

    unjudged = ["objective.terms.lpips.weight=0", "objective.adversary=null"]  # they have no part in restoring
    unjudged += ["backbone.lora=null"]  # merged by then
    config = compose_config("train", ["experiments=ssp_ir_one_step", "captioner=none", *unjudged])
    module, trouble = shapes(config)
    assert module is not None, trouble
    module.float()  # as a run is loaded
    rows: dict[str, float] = {}

    def counted(name: str, call: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            made = call()
        rows[name] = counter.get_total_flops() / 1e12
        return made

    # attention as matrix products: the CPU's kernel is one that torch does not count
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):
        module.to_empty(device="cpu").eval()
        lq = torch.zeros(1, 3, SIZE, SIZE)
        latents = counted("encoder", lambda: encode_latents(module.vae, lq))
        texts = counted("text", lambda: module.text_encoder([""]))
        images = counted("image", lambda: module.refine(module.image_encoder(lq)))
        features, _ = counted("structure", lambda: module.backbone.structure(lq))
        timestep = torch.tensor(module.sampler.start)
        made = counted("denoiser", lambda: module.backbone.predict(latents, timestep, texts, images, features))
        counted("decoder", lambda: decode_latents(module.vae, made))
    one, guided = sum(rows.values()), 2 * STEPS * rows["denoiser"]
    return {
        **{f"{name}_tflop": value for name, value in rows.items()},
        "one_step_tflop": one,
        "guided_steps_tflop": guided,
        "ratio": one / guided,
        "decoder_share": rows["decoder"] / one,
    }


def train(folder: Path, experiment: str = "ssp_ir", size: int = SIZE) -> dict[str, float]:
    """One optimizer step by the Trainer, as `sspir train` takes it, without its checkpoint; size in pixels."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate
    from torch.utils.data import DataLoader

    from sspir.batch import Batch
    from sspir.doctor.memory import estimate_step
    from sspir.models.attention_processor import cpu_attention
    from sspir.pretrained.load import shapes_only
    from sspir.training.parts import trained_weights

    config = settings(folder, experiment)
    module = module_of(config)
    generator = torch.Generator().manual_seed(0)
    lq, hq = (torch.rand(1, 3, side, side, generator=generator) for side in (size // 4, size))
    trainer = pl.Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=1, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    loaded = peak_bytes(CPU)
    started, used = time.perf_counter(), time.process_time()
    with cpu_attention(module.backbone, CPU, remember=False):
        trainer.fit(module, DataLoader([Batch(lq, hq, ["a photo"], ["0"])], batch_size=None))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    peak = peak_bytes(CPU)
    zero = ("lora_B", "unet_pixel.attentions.up3_2.proj_out.weight")  # at the start
    learned = [weight.any() for key, weight in trained_weights(module).items() if any(part in key for part in zero)]
    assert any(learned), "the step trained nothing"
    del module, trainer
    with shapes_only():
        shapes = instantiate(config.module, _convert_="all")
    estimated = estimate_step(shapes, 1, size, "bf16-mixed", averaged=False).total
    return {
        "peak_gib": peak / GIB,
        "peak_after_loading_gib": loaded / GIB,
        "estimated_gib": estimated / GIB,
        "estimated_to_measured": estimated / peak,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def lora(folder: Path) -> dict[str, float]:
    """The same step of adapters, on a smaller image."""
    return train(folder, "ssp_ir_lora", 256)


def restore(folder: Path) -> dict[str, float]:
    """Two guided steps from 128 x 128 to 512 x 512, everything in bf16."""
    from sspir.sampling.pipeline import RestorationPipeline

    pipeline = RestorationPipeline.from_pretrained(str(folder / "pipeline"), dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    loaded = peak_bytes(CPU)
    lq = torch.rand(1, 3, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(0))
    sampler = pipeline.settings(steps=2, guidance=5.5)
    started, used = time.perf_counter(), time.process_time()
    images = pipeline.restore(lq, ["a photo"], sampler=sampler).images
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    assert tuple(images.shape) == (1, 3, SIZE, SIZE)
    assert images.isfinite().all()
    return {
        "peak_gib": peak_bytes(CPU) / GIB,
        "peak_after_loading_gib": loaded / GIB,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


@torch.no_grad()
def step(folder: Path) -> dict[str, float]:
    """One call of ControlNet and U-Net for 512 x 512 on one thread: plain, and as the sampler calls them.

    Then the encoder and the decoder, for restoring in one step beside 50 guided steps: two plain calls each, measured
    four times and multiplied.
    """
    from sspir.models.attention_processor import cpu_attention
    from sspir.models.controlled_unet import ControlledUNet
    from sspir.models.latent import decode_latents, encode_latents
    from sspir.models.structure_processor import StructureProcessor
    from sspir.pretrained import load_autoencoder, load_unet

    torch.set_num_threads(1)
    network = ControlledUNet.from_unet(load_unet(str(folder / "sd")), StructureProcessor()).eval()
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(size, generator=generator)
        for size in ((1, 4, 64, 64), (1, 77, 768), (1, 256, 512), (1, 320, 64, 64))
    ]

    half = torch.nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    in_half = [tensor.to(torch.bfloat16) for tensor in given]

    def seconds(used: ControlledUNet, sample: torch.Tensor, *priors: torch.Tensor) -> float:
        """CPU seconds of a call."""
        started = time.process_time()
        used.predict(sample, torch.tensor(500), *priors)
        return time.process_time() - started

    plain, fp32, bf16 = [], [], []
    for _ in range(4):
        plain.append(seconds(network, *given))
        for times, used, tensors in ((fp32, network, given), (bf16, half, in_half)):
            with cpu_attention(used, CPU):
                seconds(used, *tensors)  # computes the keys and values that all steps share
                times.append(seconds(used, *tensors))
    del half, in_half
    vae = load_autoencoder(str(folder / "sd"))
    started = time.process_time()
    decode_latents(vae, encode_latents(vae, torch.rand(1, 3, SIZE, SIZE, generator=generator)))
    one = min(plain) + time.process_time() - started
    return {
        "one_step_cpu_seconds": one,
        "one_step_ratio": one / (2 * STEPS * min(plain)),
        "plain_cpu_seconds": min(plain),
        "plain_to_authors": min(plain) / AUTHORS,
        "fp32_cpu_seconds": min(fp32),
        "fp32_ratio": min(fp32) / min(plain),
        "bf16_cpu_seconds": min(bf16),
        "bf16_ratio": min(bf16) / min(plain),
        "peak_gib": peak_bytes(CPU) / GIB,
    }


PARTS = {"prepare": prepare, "count": count, "train": train, "lora": lora, "restore": restore, "step": step}


def run(part: str, folder: Path) -> dict[str, float]:
    """One part in a process of its own."""
    target = folder / f"{part}.json"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--part", part, "--folder", str(folder), "--out", str(target)]
    subprocess.run(command, check=True, env=environment)
    found: dict[str, float] = json.loads(target.read_text())
    return found


def report(results: dict[str, dict[str, float]]) -> int:
    """Print the figures beside their limits; 1 if one is exceeded."""
    kept = True
    for part, found in results.items():
        for name, value in found.items():
            limit = LIMITS.get(part, {}).get(name)
            verdict = "" if limit is None else f"  (limit {limit:g}: {'kept' if value <= limit else 'EXCEEDED'})"
            kept = kept and (limit is None or value <= limit)
            print(f"{part:<9}{name:<26}{value:9.4f}{verdict}")
    return 0 if kept else 1


def main() -> int:
    """Every part, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/smoke_sd15.json"), help="where the figures go")
    parser.add_argument("--folder", type=Path, help="where the weights go, and stay (default: a temporary folder)")
    parser.add_argument("--part", choices=PARTS, help="only this part, in this process")
    options = parser.parse_args()
    if options.part not in (None, "count") and not options.folder:
        parser.error("--part needs --folder, where --part prepare writes the weights that the others read")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.part:
        found = PARTS[options.part](options.folder)
        options.out.write_text(json.dumps(found))
        return report({options.part: found}) if options.part == "count" else 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "prepare.json").exists():
            run("prepare", folder)
        results = {part: run(part, folder) for part in PARTS if part != "prepare"}
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    return report(results)


if __name__ == "__main__":
    sys.exit(main())

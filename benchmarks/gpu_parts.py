"""The parts of bench_gpu.py but training: each yields its cases, a name and a function that measures.

A case stands for itself: what goes wrong in it is told in its line, and the next one begins.
"""

import itertools
import math
import os
import random
import subprocess
import sys
import time
from functools import partial
from typing import Any

import torch
from gpu_lab import GUIDED, MODES, UNGUIDED, Cases, Figures, Lab
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sspir.device import Replays
from sspir.files import Journal
from sspir.restoring.jobs import JOURNAL, find_jobs
from sspir.restoring.runner import JobRunner, Request


def restore(lab: Lab) -> Cases:
    """From tensor to tensor, caption given: with all priors, encoder and decoder."""
    kinds: dict[str, dict[str, Any]] = {
        "50 guided": {"steps": 50, **GUIDED},
        "50 unguided": {"steps": 50, **UNGUIDED},
        "4 guided": {"steps": 4, **GUIDED},
        "one step": {},
    }
    if lab.tiny:
        kinds["50 guided"]["steps"] = kinds["50 unguided"]["steps"] = 5
    for name, changes in kinds.items():
        for mode in MODES:
            yield f"{name}, {mode}", partial(_restored, lab, name, mode, changes)
    yield "50 guided, operations", lambda: _counted(lab)


def _restored(lab: Lab, name: str, mode: str, changes: dict[str, Any]) -> Figures:
    pipeline = lab.networks if changes else lab.one_step
    pipeline.replays = Replays() if MODES[mode] else None
    lq, settings = lab.photo(), pipeline.settings(**changes)

    def call() -> Tensor:
        done = pipeline.restore(lq, ["a photo"], sampler=settings)
        if done.warnings:
            raise RuntimeError(f"the figure would be another's: {done.warnings}")
        return done.images

    case, eager = f"{name}, {mode}", f"{name}, eager"
    lab.pictures.setdefault(case, call())
    lab.tidy()
    figures = lab.timed(case, call, warm=2 if MODES[mode] else 0) | lab.memory()
    if (reference := lab.pictures.get(eager)) is not None:
        figures |= _apart(call(), reference)
    return figures | (lab.ratio("times_as_fast", eager, case) if MODES[mode] else {})


def _apart(image: Tensor, reference: Tensor) -> Figures:
    """How far a picture is from another: decibels, and the share of values within two of 255 levels."""
    error = (image.float() - reference.float()).abs()
    return {"psnr": _psnr(error), "within_2_levels": (error <= 2 / 255).float().mean().item()}


def _psnr(error: Tensor) -> float:
    """200 stands for equality."""
    return -10 * math.log10(max(error.double().square().mean().item(), 1e-20))


def _counted(lab: Lab) -> Figures:
    """Floating-point operations of 50 guided steps, from those of the first step and of a further one."""
    pipeline, made = lab.networks, []
    pipeline.replays = None
    for steps in (1, 2):
        with FlopCounterMode(display=False) as counter:
            pipeline.restore(lab.photo(), ["a photo"], sampler=pipeline.settings(steps=steps, **GUIDED))
        made.append(counter.get_total_flops())
    total = made[0] + (4 if lab.tiny else 49) * (made[1] - made[0])
    for mode in MODES:
        lab.operations[f"50 guided, {mode}"] = total
    return {"tflop": total / 1e12}


def stock(lab: Lab) -> Cases:
    """The denoising alone of diffusers' own pipeline; ours has all priors and both halves of the autoencoder too."""
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel

    with torch.device(lab.device):
        unet = UNet2DConditionModel.from_config(lab.networks.unet.config)
        controlnet = ControlNetModel.from_unet(unet)
    for net in (unet, controlnet):
        torch.nn.Module.to(net, lab.device, torch.bfloat16).eval()
    pipeline = StableDiffusionControlNetPipeline(
        None, None, None, unet, controlnet, DDIMScheduler(), None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    texts = torch.randn(2, 1, 77, unet.config.cross_attention_dim, device=lab.device, dtype=torch.bfloat16)
    image = lab.photo(lab.size, lab.size)

    def call() -> object:
        return pipeline(
            prompt_embeds=texts[0], negative_prompt_embeds=texts[1], image=image, guidance_scale=5.5,
            num_inference_steps=5 if lab.tiny else 50, output_type="latent",
        )  # fmt: skip

    def measured() -> Figures:
        lab.tidy()
        figures = lab.timed("stock", call) | lab.memory()
        return figures | {
            key: value
            for mode in MODES
            for key, value in lab.ratio(f"ours_{mode}", f"50 guided, {mode}", "stock").items()
        }

    yield "50 guided steps", measured


def peak(lab: Lab) -> Cases:
    """The share of what the card reaches in one large product of matrices."""
    side = 512 if lab.tiny else 8192
    products = {"bfloat16": torch.bfloat16, "float32": torch.float32}

    def product(name: str, kind: torch.dtype) -> Figures:
        left, right = (torch.randn(side, side, device=lab.device, dtype=kind) for _ in range(2))
        lab.timed(name, lambda: left @ right, warm=3)
        return {"tflop_per_s": 2 * side**3 / lab.seconds[name] / 1e12}

    def share(case: str) -> Figures:
        rate = lab.operations[case] / lab.seconds[case] / 1e12
        return {"tflop_per_s": rate, "share_of_product": rate / (2 * side**3 / lab.seconds["bfloat16"] / 1e12)}

    for name, kind in products.items():
        yield f"{name} product of {side}", partial(product, name, kind)
    if not lab.operations:
        yield "shares", lambda: {"left out": "measure restore and train_sd in the same call"}
    for case in lab.operations:
        if case in lab.seconds:
            yield case, partial(share, case)


def sizes(lab: Lab) -> Cases:
    """One photo by the code of `sspir restore` in four guided steps, with less memory than the card has."""
    for gib, size in itertools.product((8, 12, 24), (lab.size, 2 * lab.size, 4 * lab.size)):
        if not lab.tiny or (gib, size) == (8, 64):
            yield f"{size} px in {gib} GB", partial(_sized, lab, gib, size)


def _sized(lab: Lab, gib: int, size: int) -> Figures:
    lab.networks.replays = Replays()
    folder = lab.folder / f"sized-{gib}-{size}"
    lab.write(folder / "photo.png", lab.photo(size // 4, size // 4))
    settings = lab.networks.settings(steps=4, **GUIDED)
    journal = Journal(folder / "done", JOURNAL)
    lab.tidy()
    started = time.perf_counter()
    with lab.memory_limit(gib):
        runner = JobRunner(lab.networks, Request(settings, 4), journal, lambda job: "a photo")
        failed = runner.run(find_jobs([str(folder / "photo.png")], folder / "done"))
    done = {"seconds": time.perf_counter() - started} | lab.memory()
    if failed:
        return done | {"ended in": "; ".join(failed.values())}
    (entry,) = journal.entries.values()
    return done | ({"warnings": "; ".join(entry["warnings"])} if entry["warnings"] else {})


def many_sizes(lab: Lab) -> Cases:
    """Photos of as many sizes; half of them captured first, as who comes first also chooses the kernels for a size."""
    sides = range(48, 80, 4)
    shapes = random.Random(0).sample(list(itertools.product(sides, sides)), 4 if lab.tiny else 60)
    halves = shapes[::2], shapes[1::2]

    def passed(half: int, mode: str) -> Figures:
        lab.networks.replays = Replays() if MODES[mode] else None
        settings = lab.networks.settings(steps=4, **UNGUIDED)
        lab.tidy()
        lab.wait()
        started = time.perf_counter()
        for height, width in halves[half]:
            lab.networks.restore(lab.photo(height, width), ["a photo"], sampler=settings)
        lab.wait()
        lab.seconds[f"half {half}, {mode}"] = time.perf_counter() - started
        found[half, mode] = lab.memory()
        return {"seconds": lab.seconds[f"half {half}, {mode}"], **found[half, mode]}

    def together() -> Figures:
        eager, captured = (sum(lab.seconds[f"half {half}, {mode}"] for half in (0, 1)) for mode in MODES)
        memory = {
            f"{key}_ratio": max(found[half, "captured"][key] for half in (0, 1)) / found[0, "eager"][key]
            for key in found[0, "eager"]
        }
        return {"photos": len(shapes), "times_as_fast": eager / captured, **memory}

    found: dict[tuple[int, str], Figures] = {}
    lab.networks.restore(lab.photo(), ["a photo"], sampler=lab.networks.settings(steps=1, **UNGUIDED))  # the first call
    for half, mode in ((0, "eager"), (0, "captured"), (1, "captured"), (1, "eager")):
        yield f"half {half + 1}, {mode}", partial(passed, half, mode)
    yield "together", together


def fused_qkv(lab: Lab) -> Cases:
    """Whether query, key and value by one product pay in U-Net and ControlNet, by the call that diffusers has."""

    def fused() -> Figures:
        lab.forget()  # no graph of before
        for net in (lab.networks.unet, lab.networks.controlnet):
            net.fuse_qkv_projections()
        figures = _restored(lab, "fused, 50 guided", "captured", {"steps": 5 if lab.tiny else 50, **GUIDED})
        lab.forget()
        return figures | lab.ratio("times_as_fast", "50 guided, captured", "fused, 50 guided, captured")

    yield "50 guided, captured", fused


def vae(lab: Lab) -> Cases:
    """Encoder and decoder of the autoencoder, and how far a decoded picture is from float32's, its range made one."""
    from diffusers import AutoencoderKL

    from sspir.pretrained.hub import SHAPES

    config = AutoencoderKL.load_config(SHAPES / "sd15" / "vae")
    if lab.tiny:
        config |= {"block_out_channels": [32] * 4}
    with torch.device(lab.device):
        net = AutoencoderKL.from_config(config).eval()
        latents = torch.randn(1, 4, lab.size // 8, lab.size // 8)
    image, decoded = 2 * lab.photo(lab.size, lab.size) - 1, {}

    @torch.no_grad()
    def measured(name: str, kind: torch.dtype, matmul: bool, convolution: bool, layout: torch.memory_format) -> Figures:
        before = torch.backends.cudnn.allow_tf32
        try:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
            torch.nn.Module.to(net, dtype=kind, memory_format=layout)
            given, drawn = (tensor.to(kind, memory_format=layout) for tensor in (image, latents))
            figures = {
                f"{what}_ms": 1000 * lab.timed(f"{what}, {name}", call, warm=2)["seconds"]
                for what, call in (("encode", lambda: net.encode(given)), ("decode", lambda: net.decode(drawn)))
            }
            decoded[name] = net.decode(drawn).sample.float()
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, before
        truth = decoded["float32, strict"]
        return {**figures, "psnr": _psnr((decoded[name] - truth) / (truth.max() - truth.min()))}

    full, half, lines, pixels = torch.float32, torch.bfloat16, torch.contiguous_format, torch.channels_last
    yield "float32, strict", partial(measured, "float32, strict", full, False, False, lines)
    yield "float32", partial(measured, "float32", full, False, True, lines)
    yield "float32, TF32 products", partial(measured, "float32, TF32 products", full, True, True, lines)
    yield "float32, channels last", partial(measured, "float32, channels last", full, True, True, pixels)
    # From here on the weights are those of bfloat16
    yield "bfloat16, channels last", partial(measured, "bfloat16, channels last", half, True, True, pixels)
    yield "bfloat16", partial(measured, "bfloat16", half, True, True, lines)


def startup(lab: Lab) -> Cases:
    """From a command to its end: two steps of training, one photo restored by the model that comes along."""
    photos = lab.photos()
    accelerator = f"trainer.accelerator={'gpu' if lab.on_gpu else 'cpu'}"
    train = [
        "train", "experiments=tiny", "logger=jsonl", "trainer.max_steps=2", accelerator, f"folder={lab.folder / 'two'}",
        f"dataset.train.root={photos}", f"dataset.validation.photos.root={photos}", "trainer.limit_val_batches=1",
    ]  # fmt: skip
    small = lab.folder / "small" / "photo.png"
    lab.write(small, lab.photo(64, 64))
    commands = {
        "train": [*train, *(["batch_size=2", "sampler.steps=1"] if lab.tiny else [])],
        "restore": ["restore", str(small), "--out", str(lab.folder / "restored")],
    }

    def run(arguments: list[str]) -> Figures:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "sspir", *arguments], capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
        return {"seconds": time.perf_counter() - started}

    for name, arguments in commands.items():
        yield name, partial(run, arguments)

"""The parts of bench_gpu.py about training; see gpu_parts.py."""

import itertools
import time
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from gpu_lab import MODES, Cases, Figures, Lab
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from sspir.batch import Batch
from sspir.config.compose import compose_config
from sspir.models.attention_processor import cpu_attention
from sspir.models.latent import encode_latents, upscale
from sspir.training.fit import train
from sspir.training.module import RestorationModule
from sspir.training.updates import SkipNaN


class Stopwatch(pl.Callback):
    """Seconds per optimizer step of a training.

    Args:
        lab: whose device is waited for.
        warm: steps before the watch is started.
    """

    def __init__(self, lab: Lab, warm: int) -> None:
        self.lab, self.warm = lab, warm
        self.started = self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start after the last step to warm up, and stop after the last of all."""
        if trainer.global_step not in (self.warm, trainer.max_steps):
            return
        self.lab.wait()
        if trainer.global_step == self.warm:
            self.started = time.perf_counter()
        else:
            self.seconds = (time.perf_counter() - self.started) / (trainer.max_steps - self.warm)


def train_tiny(lab: Lab) -> Cases:
    """The second part of experiments=tiny, as `sspir train` runs it, without the bar and the validations."""
    for precision, mode in itertools.product(("bf16-mixed", "32-true"), MODES):
        yield f"{precision}, {mode}", partial(_tiny, lab, precision, mode)


def _tiny(lab: Lab, precision: str, mode: str) -> Figures:
    photos, case = lab.photos(), f"tiny {precision}, {mode}"
    warm, steps = (2, 4) if lab.tiny else (20, 60)
    watch = Stopwatch(lab, warm)
    changes = [
        "experiments=tiny", f"folder={lab.folder / case.replace(', ', '-').replace(' ', '-')}", "logger=jsonl",
        f"dataset.train.root={photos}", f"dataset.validation.photos.root={photos}", "data.passes=100",
        f"trainer.max_steps={warm + steps}", f"trainer.precision={precision}", "trainer.limit_val_batches=0",
        f"trainer.accelerator={'gpu' if lab.on_gpu else 'cpu'}", "module.structure_steps=0",
        "trainer.enable_progress_bar=false", f"workers={0 if lab.tiny else 8}", f"batch_size={4 if lab.tiny else 16}",
    ]  # fmt: skip
    changes.append(f"module.capture={str(MODES[mode]).lower()}")
    lab.tidy()
    train(compose_config("train", changes), callbacks=[watch])
    lab.seconds[case] = watch.seconds
    faster = lab.ratio("times_as_fast", f"tiny {precision}, eager", case) if MODES[mode] else {}
    return {"steps_per_s": 1 / watch.seconds, **lab.memory(), **faster}


def train_sd(lab: Lab) -> Cases:
    """Ours beside a plain loop over the same networks, what is frozen in bfloat16; no activation is computed twice."""
    lab.forget()
    half = ("backbone", "text_encoder", "image_encoder", "vae")
    settings = [] if lab.tiny else [f"{part}.dtype=bfloat16" for part in half]
    module = lab.module(*settings, "module.gradient_checkpointing=false", "module.structure_steps=0")
    batches = (1, 2) if lab.tiny else (1, 8)
    for size in batches:
        yield f"batch {size}, plain loop", partial(_plain, lab, module, size)
        yield f"batch {size}, operations", partial(_plain, lab, module, size, counted=True)
    for mode, size in itertools.product(MODES, batches):
        yield f"batch {size}, ours {mode}", partial(_beside, lab, module, size, mode)


def lora(lab: Lab) -> Cases:
    """A training step of experiments=ssp_ir_lora, batch 1 and 8, with less memory than the card has: does it run?"""
    lab.forget()
    settings = ["backbone.lora={rank: 16}", "module.structure_steps=0"]
    if not lab.tiny:
        half = ("backbone", "text_encoder", "image_encoder", "vae")
        settings += [*(f"{part}.dtype=bfloat16" for part in half), "module.gradient_checkpointing=true"]
    module = lab.module(*settings)
    for gib, size in itertools.product((8, 12, 24), (1, 8)):
        if not lab.tiny or (gib, size) == (8, 1):
            yield f"batch {size} in {gib} GB", partial(_limited, lab, module, size, gib)


def _limited(lab: Lab, module: RestorationModule, size: int, gib: int) -> Figures:
    try:
        with lab.memory_limit(gib):
            return _ours(lab, module, size, "eager")
    except torch.OutOfMemoryError:
        return {"ended in": "no room", **lab.memory()}


def _batch(lab: Lab, size: int) -> Batch:
    """Pictures on the device."""
    hq = torch.rand(size, 3, lab.size, lab.size, device=lab.device)
    return Batch(upscale(hq, (lab.size // 4, lab.size // 4)), hq, [""] * size, [f"{n}" for n in range(size)])


def _steps(lab: Lab, size: int) -> tuple[int, int]:
    """Steps to warm up, and to measure."""
    return (1, 2) if lab.tiny else (4, 12 if size == 1 else 6)


def _plain(lab: Lab, module: RestorationModule, size: int, counted: bool = False) -> Figures:
    """What one would write for these networks and losses without a framework; its seconds, or its operations."""
    batch, (warm, steps), case = _batch(lab, size), _steps(lab, size), f"batch {size}, plain loop"
    weights = [p for part in module.trainable().values() for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-5, fused=True)
    schedule = module.noise_schedule
    kept = schedule.alphas_cumprod.to(lab.device)

    def losses() -> Tensor:
        lq = upscale(batch.lq, batch.size)
        features, images = module.backbone.structure(lq)
        with torch.no_grad():
            texts, tokens = module.text_encoder([""] * size).to(lq.dtype), module.image_encoder(lq).to(lq.dtype)
            latents = module.latents(batch.hq, images) if module.residual else encode_latents(module.vae, batch.hq)
        noise, times = torch.randn_like(latents), torch.randint(1000, (size,), device=lab.device)
        share = kept[times][:, None, None, None]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        predicted = module.backbone.predict(noisy, times, texts, module.refine(tokens), features)
        target = noise if schedule.config.prediction_type == "epsilon" else latents
        parts = module.loss.structure(images, batch.hq)
        parts["noise"] = module.loss.noise(predicted, target, kept[times], schedule.config.prediction_type)
        return torch.stack(list(parts.values())).sum()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(lab.device.type, torch.bfloat16):
            loss = losses()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    lab.tidy()
    with cpu_attention(module.backbone, lab.device, remember=False):
        if counted:
            with FlopCounterMode(display=False) as counter:
                step()
            modes = ("plain loop", *(f"ours {mode}" for mode in MODES))
            lab.operations |= dict.fromkeys((f"batch {size}, {mode}" for mode in modes), counter.get_total_flops())
            figures = {"tflop": lab.operations[case] / 1e12}
        else:
            for number in range(warm + steps):
                if number == warm:
                    lab.wait()
                    started = time.perf_counter()
                step()
            lab.wait()
            lab.seconds[case] = (time.perf_counter() - started) / steps
            figures = {"seconds": lab.seconds[case], **lab.memory()}
    module.zero_grad()
    return figures


def _beside(lab: Lab, module: RestorationModule, size: int, mode: str) -> Figures:
    """The same by our module, beside the plain loop."""
    figures, case = _ours(lab, module, size, mode), f"batch {size}, ours {mode}"
    lab.seconds[case] = figures["seconds"]
    return figures | lab.ratio("times_as_fast_as_plain", f"batch {size}, plain loop", case)


def _ours(lab: Lab, module: RestorationModule, size: int, mode: str) -> Figures:
    """Steps of our module by Lightning's Trainer."""
    warm, steps = _steps(lab, size)
    batch, watch = _batch(lab, size), Stopwatch(lab, warm)
    module.capture, module.replays = MODES[mode], None
    trainer = pl.Trainer(
        accelerator="gpu" if lab.on_gpu else "cpu", devices=1, precision="bf16-mixed", max_steps=warm + steps,
        gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=-1,
        enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False, default_root_dir=lab.folder,
        callbacks=[SkipNaN(), watch],
    )  # fmt: skip
    trainer.strategy.teardown = lambda: None  # Lightning's would bring gigabytes of weights to the CPU
    lab.tidy()
    try:
        with cpu_attention(module.backbone, lab.device, remember=False):
            trainer.fit(module, DataLoader([batch] * (warm + steps), batch_size=None))
        memory = lab.memory()
    finally:
        module.trainer = None
        module.zero_grad()
    return {"seconds": watch.seconds, **memory}

"""How soon training starts, what Lightning costs over a bare loop, what bf16 gains, and what it does to the loss.

    python benchmarks/bench_training.py [--steps 40] [--repeats 3]

First the seconds from the command `sspir train experiments=tiny` to the record of its first step. Then:

CPU seconds per step, the lesser of alternating repeats; one thread, random photos. Ratios are of one run. The loss
curve in bf16 is compared with that in fp32, and with that of another seed.
"""

import argparse
import copy
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from diffusers import UNet2DConditionModel
from torch.utils.data import DataLoader

from sspir.batch import Batch
from sspir.config.compose import compose_config
from sspir.models.attention_processor import cpu_attention
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.structure_processor import StructureProcessor
from sspir.training.callbacks import EMA, SkipNaN
from sspir.training.loggers import JsonLinesLogger
from sspir.training.run import build_module


def least(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """CPU seconds of each function: the lesser of alternating repeats."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return {name: min(values) for name, values in seconds.items()}


def start_up() -> None:
    """Seconds from the command to the record of the first step, logged by W&B too."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "sspir", "train", "experiments=tiny", "trainer.log_every_n_steps=1"]
        started = time.perf_counter()
        process = subprocess.Popen([*command, f"folder={record.parent}"], stdout=subprocess.DEVNULL)
        while not record.is_file() or not record.stat().st_size:
            if process.poll() is not None:
                raise SystemExit("the run ended before its first step")
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        process.terminate()
        process.wait()
    print(f"{seconds:.1f} s from `sspir train experiments=tiny` to its first step (aim: below 15)")


def overhead(steps: int, repeats: int) -> None:
    """The tiny experiment's steps by a bare loop and by the Trainer with its callbacks and the JSON-lines record."""
    config = compose_config("train", ["experiments=tiny", "module.structure_steps=0", f"trainer.max_steps={steps}"])
    start = build_module(config)
    generator = torch.Generator().manual_seed(0)
    batches = [
        Batch(
            torch.rand(16, 3, 16, 16, generator=generator), torch.rand(16, 3, 64, 64, generator=generator),
            [""] * 16, [f"{n}" for n in range(16)],
        )
        for _ in range(steps)
    ]  # fmt: skip

    def bare() -> None:
        module = copy.deepcopy(start).train()
        module.log_dict = lambda *_, **__: None
        module.generators = lambda count: [torch.Generator().manual_seed(n) for n in range(count)]
        settings = module.configure_optimizers()
        optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        averages = [p.detach().clone() for p in parameters]
        for batch in batches:
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 0.001)

    def lightning() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                accelerator="cpu", max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, log_every_n_steps=10,
                callbacks=[EMA(), SkipNaN()], logger=JsonLinesLogger(folder), enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            )  # fmt: skip
            loader = DataLoader(batches, batch_size=None)
            trainer.fit(copy.deepcopy(start), loader)

    seconds = least({"bare loop": bare, "Lightning": lightning}, repeats)
    for name, value in seconds.items():
        print(f"{name:<12}{value / steps:8.4f} CPU s per step of the tiny experiment")
    print(f"ratio {seconds['Lightning'] / seconds['bare loop']:.3f} (aim: at most 1.05)")


def curves(network: ControlledUNet, given: dict[str, torch.Tensor], steps: int) -> None:
    """Losses of predicting noise, in fp32 with two seeds and in bf16 with the first of them."""
    runs = {}
    for name, seed, context in (
        ("fp32", 0, nullcontext()), ("fp32, another seed", 1, nullcontext()),
        ("bf16", 0, torch.autocast("cpu", torch.bfloat16)),
    ):  # fmt: skip
        trained = copy.deepcopy(network).requires_grad_(True)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=2e-4)
        generator = torch.Generator().manual_seed(seed)
        losses = []
        for _ in range(steps):
            noise = torch.randn(given["sample"].shape, generator=generator)
            with context, cpu_attention(trained, torch.device("cpu"), remember=False):
                prediction = trained(**{**given, "sample": 0.3 * given["sample"] + noise}).noise
            loss = torch.nn.functional.mse_loss(prediction.float(), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs[name] = torch.tensor(losses)
        print(f"{name:<20} loss {losses[0]:.4f} -> {losses[-1]:.4f} in {steps} steps")
    half = steps // 2
    first = runs.pop("fp32")
    apart = {name: (losses - first)[half:].abs().mean().item() for name, losses in runs.items()}
    told = ", ".join(f"{name} {value:.5f}" for name, value in apart.items())
    print(f"mean distance from the fp32 curve over the second half: {told} (aim: bf16 nearer than another seed)")


def shaped(heads: int | tuple[int, ...]) -> ControlledUNet:
    """Stable Diffusion 1.5's U-Net and ControlNet at a tenth of the width, 19 M parameters."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 128, 128), norm_num_groups=16, cross_attention_dim=128, attention_head_dim=heads
    )
    return ControlledUNet.from_unet(unet, StructureProcessor(), image_dim=64)


def precision(repeats: int, steps: int) -> None:
    """Networks of Stable Diffusion's shape, and the tiny one, in fp32 and bf16 autocast."""
    tiny = build_module(compose_config("train", ["experiments=tiny"])).backbone
    cases = {
        "8 heads, as Stable Diffusion 1.5": (shaped(8), 4, 4, 32, 8, 128, 64),
        "4 heads": (shaped(4), 4, 4, 32, 8, 128, 64),
        "heads of 32 channels": (shaped((1, 2, 4, 4)), 4, 4, 32, 8, 128, 64),
        "tiny": (tiny, 16, 24, 16, 4, 32, 64),
    }
    for number, (name, (network, batch, channels, side, factor, text, image)) in enumerate(cases.items()):
        size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        given = {
            "sample": torch.randn(batch, channels, side, side),
            "timestep": torch.linspace(10, 900, batch).long(),
            "prompt_embeds": torch.randn(batch, 77, text),
            "image_embeds": torch.randn(batch, 64, image),
            "lq": torch.rand(batch, 3, side * factor, side * factor),
        }

        def step(context, network=network, given=given) -> None:
            with context, cpu_attention(network, torch.device("cpu"), remember=False):
                loss = network(**given).noise.float().square().mean()
            loss.backward()
            network.zero_grad()

        seconds = least(
            {"fp32": lambda: step(nullcontext()), "bf16": lambda: step(torch.autocast("cpu", torch.bfloat16))}, repeats
        )
        print(
            f"{name} ({size:.1f} M, batch {batch}): fp32 {seconds['fp32']:.3f}, bf16 autocast {seconds['bf16']:.3f} "
            f"CPU s per forward and backward; {seconds['fp32'] / seconds['bf16']:.2f}x as fast"
        )
        if not number:
            curves(network, given, steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    start_up()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    overhead(options.steps, options.repeats)
    precision(options.repeats + 1, options.steps)

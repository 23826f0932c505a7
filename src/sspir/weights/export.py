"""A trained run as a folder to publish: a pipeline, a model card, and the sums that prove it whole."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from sspir.errors import UserError
from sspir.files import alone_in, sha256
from sspir.models.lora import adapter_of
from sspir.pretrained.adapter import NAME
from sspir.sampling.pipeline import RestorationPipeline
from sspir.training.parts import saved_weights
from sspir.training.record import recorded_environment
from sspir.training.run import CONFIG, load_run
from sspir.training.saved import SUMS
from sspir.weights.load import load_pipeline, step_of

CARD = "README.md"
TRAINING = "training.yaml"
BESIDE = "trained.safetensors"
_FULL = ("processor.", "controlnet.controlnet_cond_embedding.")
"""Weights beside an adapter that keep float32: they decide the picture to the last bit."""


def export(
    run: str | Path, out: str | Path, checkpoint: str = "last", dtype: str = "float16", adapter: bool = False
) -> None:
    """Write a run as a pipeline folder, or what it has trained as an adapter.

    Args:
        run: folder of a trained run.
        out: folder to make, with those above it; it must not exist, and appears when it is complete.
        checkpoint: "last", "best" or a file name.
        dtype: of the weights on disk, "float32", "float16" or "bfloat16"; the Processor and the autoencoder, which
            decide the picture to the last bit, keep float32.
        adapter: write the U-Net's LoRA alone, for diffusers' `load_lora_weights`, and all else that was trained beside.

    Raises:
        UserError: `run` is no run, or one without a LoRA where that is asked for, or `out` exists.
    """
    run, out = Path(run), Path(out)
    _require_free(out)
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} is no run: it has no {CONFIG}; name the folder of a trained run.")
    files = _adapter(run, checkpoint, dtype) if adapter else {}
    pipeline = None if adapter else _pipeline(run, checkpoint, dtype)
    folder = out.with_name(f".{out.name}.part")  # always the same, so that what a kill has left is replaced
    with alone_in(folder, "--out"):
        try:
            _require_free(out)
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if pipeline:
                pipeline.save_pretrained(folder)
            for name, weights in files.items():
                save_file(weights, folder / name, {"format": "pt"})
            (folder / CARD).write_text(card(run, checkpoint, files.get(BESIDE, ())), encoding="utf-8")
            shutil.copy(run / CONFIG, folder / TRAINING)
            sums = "".join(f"{sha256(path)}  {name}\n" for name, path in _files(folder))
            (folder / SUMS).write_text(sums, encoding="utf-8")
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _require_free(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists; choose another folder, or remove it first.")


def _pipeline(run: Path, checkpoint: str, dtype: str) -> RestorationPipeline:
    pipeline = load_pipeline(run, checkpoint).in_dtype(dtype)
    for part in (pipeline.text_encoder, pipeline.image_encoder, pipeline.refine):
        torch.nn.Module.to(part, getattr(torch, dtype))
    return pipeline


def _adapter(run: Path, checkpoint: str, dtype: str) -> dict[str, dict[str, Tensor]]:
    """The files of an adapter: the U-Net's, and what else was trained, by its name in `RestorationPipeline`."""
    module = load_run(run, checkpoint, merged=False)
    backbone = module.backbone
    adapters = {name: adapter_of(net) for name, net in (("unet", backbone.unet), ("controlnet", backbone.controlnet))}
    if not adapters["unet"]:
        raise UserError(f"{run} has no LoRA on its U-Net (backbone.lora); export it without --adapter.")
    if "backbone.unet" in module.brought:
        raise UserError(
            f"The LoRA of {run} stands on a U-Net that came with init, not with a path; export it without --adapter."
        )
    files = {
        NAME: {f"unet.{key}": weight for key, weight in adapters["unet"].items()},
        BESIDE: {f"controlnet.{key}": weight for key, weight in adapters["controlnet"].items()},
    }
    for key, weight in saved_weights(module).items():
        if "lora_" not in key:
            files[BESIDE][key.removeprefix("backbone.").replace(".base_layer.", ".")] = weight
    kind = getattr(torch, dtype)
    for held in files.values():
        for key, weight in held.items():
            held[key] = (weight if key.startswith(_FULL) else weight.to(kind)).contiguous()
    return files


def card(run: Path, checkpoint: str, beside: Iterable[str] = ()) -> str:
    """The model card of a run: what it was trained on and how; results are for its author to add.

    Args:
        run: its folder.
        checkpoint: as of `export`.
        beside: names of what an adapter's second file holds.
    """
    config = OmegaConf.load(run / CONFIG)
    environment = recorded_environment(run)
    version = environment.get("packages", {}).get("sspir", "of unknown version")
    facts = {
        "experiment": f"{config.name}, ablation {config.variant}, seed {config.seed}, checkpoint {checkpoint}",
        "steps": f"{step_of(run, checkpoint)} of {environment.get('images_per_step', config.batch_size)} images",
        "code": environment.get("code") or f"sspir {version}",
    }
    if beside:
        base = config.backbone.unet
        facts["base"] = str(base.get("path", base._target_)) + (
            f" with the LoRA {base.lora}" if base.get("lora") else ""
        )
        facts[NAME] = "the U-Net's LoRA, for `load_lora_weights` of diffusers"
        facts[BESIDE] = "what else was trained: " + ", ".join(sorted({key.split(".")[0] for key in beside}))
    lines = [f"- **{name}**: {value}" for name, value in facts.items()]
    return "\n".join([f"# {config.name}", "", *lines, "", f"Every setting stands in `{TRAINING}`.", ""])


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Name and path of the files that get checksums: all but the card and the configuration, which may be edited."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [(path.relative_to(folder).as_posix(), path) for path in paths]
    return [(name, path) for name, path in named if name not in (CARD, TRAINING)]

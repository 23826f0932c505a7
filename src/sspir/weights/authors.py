"""The authors' checkpoint: its files, and which of our parts each of its tensors belongs to."""

import json
import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from sspir.encoders.clip import CLIPImageEncoder
from sspir.encoders.text import TextEncoder
from sspir.errors import UserError
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.refine import RefineLayer
from sspir.models.structure_processor import StructureProcessor
from sspir.pretrained.load import load_autoencoder, load_noise_schedule
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler

State = dict[str, Tensor]
PARTS = ("unet", "controlnet", "refine")
SAMPLER = Sampler(respace=False, overlap=4)

# Stable Diffusion 1.5's U-Net, where it differs from what diffusers builds by default.
STABLE_DIFFUSION_15 = {"sample_size": 64, "cross_attention_dim": 768}

_ADAPTER = re.compile(r"(?:(down|up)_blocks\.(\d)|(mid)_block)\.(image|pixel)_attentions\.(\d)\.(.+)")
_PROCESSOR = {
    "controlnet_cond_embedding.to_rgbs.": "heads.",
    "controlnet_cond_embedding.preprocessor.": "front.",
}


def load_authors(folder: str | Path, stable_diffusion: str, clip: str) -> RestorationPipeline:
    """Load the authors' checkpoint folder as a pipeline that samples as theirs.

    Args:
        folder: with `unet/`, `controlnet/` (weights and config.json each) and `refine/refine.pt`.
        stable_diffusion: Stable Diffusion 1.5, a folder in the diffusers layout or a hub id: autoencoder, text model
            and noise schedule.
        clip: CLIP ViT-L/14, a folder or a hub id: image encoder.

    Raises:
        UserError: a file or tensor is missing, unexpected or of another shape.
    """
    folder = Path(folder).expanduser()
    config = _read_config(folder / "unet" / "config.json")
    unet, controlnet = (_read_weights(folder / part) for part in ("unet", "controlnet"))
    backbone = network_of(unet, controlnet, config).eval()
    refine_state = _read_refine(folder / "refine" / "refine.pt")
    width, image_dim = (refine_state[key].shape for key in _first_and_last(refine_state))
    refine = RefineLayer(width[1], image_dim[0])
    load_refine(refine, refine_state)
    text = TextEncoder.from_pretrained(
        stable_diffusion, dim=backbone.unet.config.cross_attention_dim, subfolder="text_encoder"
    )
    return RestorationPipeline.from_parts(
        backbone,
        SAMPLER,
        vae=load_autoencoder(stable_diffusion),
        tokenizer=text.tokenizer,
        text_encoder=text.model,
        image_encoder=CLIPImageEncoder.from_clip(clip, dim=width[1]),
        refine=refine.eval(),
        scheduler=load_noise_schedule(stable_diffusion),
    )


def network_of(unet: State, controlnet: State, config: Mapping[str, Any] | None = None) -> ControlledUNet:
    """The network of two state dicts that the authors' code saves.

    Args:
        unet: of their extended U-Net, under their names.
        controlnet: of their ControlNet.
        config: dimensions as their `config.json` writes them; Stable Diffusion 1.5's where it is silent.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; the sentence lists them.
    """
    parts = split(unet, controlnet)
    keys = (tensor for key, tensor in parts.get("unet_image", {}).items() if key.endswith("attn2.to_k.weight"))
    image_dim = next((tensor.shape[1] for tensor in keys), 512)  # without any, the list below says what is missing
    network = ControlledUNet.from_unet(
        UNet2DConditionModel(**unet_config(config or {})),
        StructureProcessor(**processor_config(parts["processor"], parts["controlnet"])),
        image_dim,
        coarse_heads=1,
    )
    load_exactly(network, {name: {} for name, _ in network.named_children()} | parts)
    return network


def load_refine(refine: RefineLayer, state: State) -> None:
    """Load the authors' Refine layer, whose weights are named `visual_projection.N.*` with any prefix.

    Raises:
        UserError: if a weight is missing, unexpected or of another shape.
    """
    ours = {name.rpartition("visual_projection.")[2]: value for name, value in state.items()}
    load_exactly(refine, {"projection": ours})


def split(unet: Mapping[str, Tensor], controlnet: Mapping[str, Tensor]) -> dict[str, State]:
    """Sort the authors' tensors into the parts of `ControlledUNet`, under our names."""
    parts: dict[str, State] = {name: {} for name in ("unet", "controlnet", "processor")}
    for net, state in (("unet", unet), ("controlnet", controlnet)):
        for key, tensor in state.items():
            part, name = _place(net, key)
            parts.setdefault(part, {})[name] = tensor
    return parts


def _place(net: str, key: str) -> tuple[str, str]:
    """Part and name of one tensor of the U-Net's or the ControlNet's state dict."""
    if found := _ADAPTER.fullmatch(key):
        path, level, mid, kind, index, rest = found.groups()
        return f"{net}_{kind}", f"attentions.{mid or f'{path}{level}_{index}'}.{rest}"
    for theirs, ours in _PROCESSOR.items():
        if key.startswith(theirs):
            return "processor", ours + key.removeprefix(theirs)
    return net, key


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the stock U-Net from a `config.json` of the authors' U-Net or ControlNet.

    A ControlNet's lacks the up path, which mirrors the down path.
    """
    config = {**STABLE_DIFFUSION_15, **config.get("config", config)}
    if "down_block_types" in config and "up_block_types" not in config:
        mirrored = reversed(config["down_block_types"])
        config["up_block_types"] = [kind.replace("Down", "Up") for kind in mirrored]
    known = signature(UNet2DConditionModel.__init__).parameters
    return {key: value for key, value in config.items() if key in known}


def processor_config(processor: State, controlnet: State) -> dict[str, Any]:
    """Widths of the Processor, read off its tensors: they stand in no config of the authors' U-Net.

    Stock ones where it has no tensors.
    """
    embedding = "controlnet_cond_embedding"
    if f"{embedding}.conv_in.weight" not in controlnet:
        return {}
    widths = [controlnet[f"{embedding}.conv_in.weight"].shape[0]]
    while (key := f"{embedding}.blocks.{2 * len(widths) - 1}.weight") in controlnet:
        widths.append(controlnet[key].shape[0])
    first = processor.get("front.conv_first.weight")
    blocks = {name.split(".")[2] for name in processor if name.startswith("front.body.")}
    return {"channels": widths, "front_features": 0 if first is None else first.shape[0], "front_blocks": len(blocks)}


def load_exactly(module: nn.Module, parts: Mapping[str, State]) -> None:
    """Load state dicts into the parts of a module, by their names.

    Raises:
        UserError: tensors are missing, unexpected or of another shape; nothing is loaded, and the sentence lists them.
    """
    faults: list[str] = []
    for name, state in parts.items():
        part = dict(module.named_children()).get(name, nn.Module())
        wanted = part.state_dict()
        faults += [f"missing {name}.{key}" for key in wanted.keys() - state.keys()]
        faults += [f"unexpected {name}.{key}" for key in state.keys() - wanted.keys()]
        faults += [
            f"{name}.{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
            for key in wanted.keys() & state.keys()
            if wanted[key].shape != state[key].shape
        ]
    if faults:
        listed = "; ".join(sorted(faults)[:20]) + ("; ..." if len(faults) > 20 else "")
        raise UserError(
            f"These weights are not of this network ({len(faults)} tensors differ: {listed}); "
            f"check that the configuration is the one they were trained with."
        )
    for name, state in parts.items():
        module.get_submodule(name).load_state_dict(state)


def _first_and_last(state: dict[str, torch.Tensor]) -> tuple[str, str]:
    """Names of the first and the last linear layer's weights."""
    weights = sorted(key for key, value in state.items() if key.endswith("weight") and value.ndim == 2)
    if not weights:
        raise UserError("The Refine layer's file holds no linear layers; it is not the authors' refine.pt.")
    return weights[0], weights[-1]


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no {path}; the authors' checkpoint has one beside the weights.")
    return _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "diffusion_pytorch_model.safetensors"
    if path.is_file():
        return _read(path, lambda: load_file(path))
    pickled = path.with_suffix(".bin")
    if pickled.is_file():
        return _read(pickled, lambda: torch.load(pickled, map_location="cpu", weights_only=True))
    raise UserError(f"There is no {path.name} (or .bin) in {folder}; the authors' checkpoint has one.")


def _read_refine(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"There is no {path}; the authors' checkpoint has the Refine layer there.")
    return _read(path, lambda: torch.load(path, map_location="cpu", weights_only=True))


def _read(path: Path, read: Callable[[], Any]) -> dict[str, Any]:
    """What a file holds by names.

    Raises:
        UserError: it is damaged.
    """
    try:
        return dict(read())
    except Exception as error:  # safetensors', the unpickler's, JSON's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}); copy it again.") from error

"""The authors' parameter names: which of our parts each tensor of their two state dicts belongs to."""

import re
from collections.abc import Mapping
from inspect import signature
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from sspir.errors import UserError

State = dict[str, Tensor]

# Stable Diffusion 1.5's U-Net, where it differs from what diffusers builds by default.
STABLE_DIFFUSION_15 = {"sample_size": 64, "cross_attention_dim": 768}

_ADAPTER = re.compile(r"(?:(down|up)_blocks\.(\d)|(mid)_block)\.(image|pixel)_attentions\.(\d)\.(.+)")
_PROCESSOR = {
    "controlnet_cond_embedding.to_rgbs.": "heads.",
    "controlnet_cond_embedding.preprocessor.": "front.",
}


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
    """Widths of the Processor, read off its tensors: they stand in no config of the authors' U-Net."""
    embedding = "controlnet_cond_embedding"
    widths = [controlnet[f"{embedding}.conv_in.weight"].shape[0]]
    while (key := f"{embedding}.blocks.{2 * len(widths) - 1}.weight") in controlnet:
        widths.append(controlnet[key].shape[0])
    first = processor.get("front.conv_first.weight")
    blocks = {name.split(".")[2] for name in processor if name.startswith("front.body.")}
    return {
        "channels": widths,
        "front_features": 0 if first is None else first.shape[0],
        "front_blocks": len(blocks),
    }


def load_exactly(module: nn.Module, parts: Mapping[str, State]) -> None:
    """Load every part, or refuse with the list of what is missing, left over or of another shape."""
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

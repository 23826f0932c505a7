"""Low-rank adapters (LoRA) on networks that stay frozen: added, switched off and merged by way of peft."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sspir.device import replaying
from sspir.errors import UserError
from sspir.numbers import COUNT, POSITIVE

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of attention."""

OWN = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
"""What a ControlNet has beside its copy of the U-Net: new, and so trained as a whole."""


def add_lora(
    nets: Mapping[str, nn.Module], rank: int, alpha: float | None = None, targets: Sequence[str] | None = None
) -> None:
    """Freeze networks and put adapters on some of their layers; they compute what they did until these are trained.

    A network none of whose layers is a target stays as it is, trained or not. What a ControlNet has beside its copy
    of the U-Net is neither a target nor frozen. The adapters are held in float32, whatever the network is held in.

    Args:
        nets: the networks, by the names that messages call them.
        rank: of the adapters.
        alpha: what adapters compute is multiplied by alpha / rank; None: alpha is the rank.
        targets: ends of names of linear and convolutional layers, such as "to_q" or "up_blocks.1.resnets.0.conv1";
            None: `ATTENTION`.

    Raises:
        UserError: a target fits no layer, a number is out of range, or peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("LoRA needs the package peft: pip install 'sspir[lora]'.") from error
    rank = COUNT.require("lora.rank", rank)
    alpha = rank if alpha is None else POSITIVE.require("lora.alpha", alpha)
    targets = ATTENTION if targets is None else [targets] if isinstance(targets, str) else targets
    layers = {name: _layers(net) for name, net in nets.items()}
    known = {layer for names in layers.values() for layer in names}
    for target in targets or ("",):
        if not any(_ends(layer, target) for layer in known):
            kinds = sorted({_kind(layer) for layer in known})
            raise UserError(
                f"lora.targets: {target!r} fits no layer of {', '.join(nets)}; there are {', '.join(kinds)}."
            )
    for name, net in nets.items():
        chosen = [layer for layer in layers[name] if any(_ends(layer, target) for target in targets)]
        if not chosen:
            continue
        pattern = "|".join(re.escape(layer) for layer in chosen)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern), net)
        for key, weight in net.named_parameters():
            weight.requires_grad_("lora_" in key or key.startswith(OWN))
            if "lora_" in key:
                weight.data = weight.data.float()


@contextmanager
def lora_switched_off(net: nn.Module) -> Iterator[None]:
    """Within, a network computes what it does without its adapters; a backward pass that recomputes belongs within."""
    layers = lora_layers(net)
    before = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True  # peft's own way also changes what is trained
        with replaying(None, ()):  # what a GPU has recorded may have them
            yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


@torch.no_grad()
def merge_lora(net: nn.Module) -> None:
    """Add what adapters have learned to the layers they stand on, and leave plain layers with the names of before."""
    for layer in lora_layers(net):
        layer.merge()
    remove_lora(net)


def remove_lora(net: nn.Module) -> None:
    """Leave plain layers with the names of before, without what adapters have learned."""
    if not lora_layers(net):
        return
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(net)
    for part in net.modules():
        if hasattr(part, "peft_config"):
            del part.peft_config


def lora_layers(net: nn.Module) -> list[Any]:
    """The layers of a network that hold adapters."""
    return [layer for layer in net.modules() if hasattr(layer, "lora_A")]


def base_names(net: nn.Module) -> set[str]:
    """Names in the `state_dict` of the weights that stay frozen under adapters; none in a network without adapters."""
    names = list(net.state_dict())
    if not any("lora_" in name for name in names):
        return set()
    return {name for name in names if "lora_" not in name and not name.startswith(OWN)}


@torch.no_grad()
def adapter_of(net: nn.Module) -> dict[str, Tensor]:
    """Adapters by diffusers' names, with alpha / rank multiplied in: they are whole without their alpha."""
    weights = {}
    for name, layer in net.named_modules():
        if hasattr(layer, "lora_A"):
            weights[f"{name}.lora_A.weight"] = layer.lora_A["default"].weight.detach()
            weights[f"{name}.lora_B.weight"] = layer.lora_B["default"].weight * layer.scaling["default"]
    return weights


def hold_base(net: nn.Module, dtype: str | None) -> None:
    """Hold what stays frozen under adapters in a type such as "bfloat16"; None leaves it as it is."""
    base = base_names(net) if dtype else ()
    for name, weight in net.named_parameters():
        if name in base:
            weight.data = weight.data.to(getattr(torch, str(dtype)))


def _layers(net: nn.Module) -> list[str]:
    """Names of the layers that can have adapters."""
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, layer in net.named_modules() if isinstance(layer, kinds) and not name.startswith(OWN)]


def _ends(layer: str, target: str) -> bool:
    return f".{layer}".endswith(f".{target}")


def _kind(layer: str) -> str:
    """The end of a layer's name that its like share: the last part that is no number, and numbers after it."""
    found = re.search(r"[^.]*[^.\d][^.]*(\.\d+)*$", layer)
    return found.group() if found else layer

"""Put somebody's LoRA on a Stable Diffusion's U-Net, for good: its layers keep their names."""

import json
import logging
from pathlib import Path
from typing import Any

from sspir.errors import UserError
from sspir.numbers import REAL
from sspir.pretrained.hub import must_come_from_hub

NAME = "pytorch_lora_weights.safetensors"
"""diffusers' name of the file."""
_SETTING = "backbone.unet.lora"
_PEFT = "adapter_config.json"  # peft's own, beside adapter_model.safetensors
_BEFORE = "base_model.model."  # peft's names of layers
_SCALING = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules")

log = logging.getLogger(__name__)


def fuse_adapter(unet: Any, path: str, scale: float = 1.0) -> None:
    """Add a LoRA to the weights of a U-Net; what it has for text encoders is left out, and told.

    Args:
        unet: of diffusers.
        path: a .safetensors file of diffusers, peft (its adapter_config.json beside it) or kohya's scripts, a folder
            that holds one, or a hub id.
        scale: its strength.

    Raises:
        UserError: it cannot be had or read, holds nothing for the U-Net or something that fits no layer, or peft is not
            installed.
    """
    scale = REAL.require("backbone.unet.lora_scale", scale)
    try:
        import peft  # noqa: F401  # diffusers loads adapters through it
    except ImportError as error:
        raise UserError(f"{_SETTING} needs the package peft: pip install 'sspir[lora]'.") from error
    weights, alphas, metadata = _read(unet, path)
    ours = {key: weight for key, weight in weights.items() if key.startswith("unet.")}
    if not ours:
        raise UserError(f"{path} ({_SETTING}) holds nothing for a U-Net; name a LoRA of Stable Diffusion.")
    if len(ours) < len(weights):
        log.warning("Of %s the U-Net's part is taken alone: text encoders stay as they are.", path)
    try:
        unet.load_lora_adapter(weights, prefix="unet", network_alphas=alphas, metadata=None if alphas else metadata)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} ({_SETTING}) does not fit this U-Net: {reason}") from error
    taken = sum(weight.numel() for key, weight in unet.named_parameters() if "lora_" in key)
    if taken != sum(weight.numel() for weight in ours.values()):
        raise UserError(
            f"{path} ({_SETTING}) has weights for layers that this U-Net lacks, or biases or whole layers; name a "
            f"LoRA of its own version without these."
        )
    try:
        unet.fuse_lora(lora_scale=scale, safe_fusing=True)
    except ValueError as error:
        raise UserError(f"{path} ({_SETTING}) holds numbers that are not finite; get it again.") from error
    unet.unload_lora()


def cached(path: str) -> Path | None:
    """The file of a hub id's LoRA in the hub's cache; None where it is not there, or one of several."""
    from huggingface_hub import snapshot_download

    try:
        files = [*Path(snapshot_download(path, local_files_only=True)).glob("*.safetensors")]
    except (OSError, ValueError):  # not there, or no hub id
        return None
    files = [file for file in files if file.name == NAME] or files
    return files[0] if len(files) == 1 else None


def _read(unet: Any, path: str) -> tuple[dict[str, Any], Any, Any]:
    """Weights by diffusers' names, the alphas and the metadata of a LoRA.

    Raises:
        UserError: it cannot be had or read.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from safetensors import SafetensorError

    place = Path(path).expanduser()
    here = place if place.exists() else cached(path)
    if here is None:
        must_come_from_hub(path, _SETTING, names=("*.safetensors",))
    try:
        weights, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            str(here or path),
            use_safetensors=True,
            local_files_only=here is not None,
            unet_config=unet.config,
            return_lora_metadata=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} ({_SETTING}) holds no LoRA as .safetensors that can be read: {reason}") from error
    if weights and all(key.startswith(_BEFORE) for key in weights):
        weights = {f"unet.{key.removeprefix(_BEFORE)}": weight for key, weight in weights.items()}
        metadata = {f"unet.{key}": value for key, value in _scaling(path, here).items()}
    return weights, alphas, metadata


def _scaling(path: str, here: Path | None) -> dict[str, Any]:
    """Rank, alpha and layers of a LoRA of peft, which stand in a file of their own; `here` is None for the hub's."""
    from huggingface_hub import hf_hub_download

    try:
        file = Path(here or "")
        file = (file if file.is_dir() else file.parent) / _PEFT
        if not Path(path).expanduser().exists() and not (here and file.is_file()):
            file = Path(hf_hub_download(path, _PEFT))
        config = json.loads(file.read_text(encoding="utf-8"))
        return {key: config[key] for key in _SCALING if config.get(key) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} ({_SETTING}) is of peft, and its {_PEFT}, which says rank and alpha, cannot be read; copy it "
            f"beside the weights."
        ) from error

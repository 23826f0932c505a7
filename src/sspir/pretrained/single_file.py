"""Load Stable Diffusion from one .safetensors file, the layout of its original releases; shapes tell the version."""

import json
from pathlib import Path
from typing import Any

from sspir.errors import UserError
from sspir.pretrained.hub import SHAPES

# Width of the captions that cross-attention reads -> folder of shapes. SD 2.1 and its base have equal shapes.
BASES = {768: "sd15", 1024: "sd21", 2048: "sdxl"}


def load_single_file(cls: Any, path: str, subfolder: str, dtype: str, shapes_only: bool) -> Any:
    """Load one part of a single file; arguments as of `sspir.pretrained.load.load_diffusers`.

    Args:
        cls: a class of diffusers.
        path: of the file.
        subfolder: the part's name: "unet", "vae" or "scheduler".
        dtype: of the weights.
        shapes_only: build the model without its weights.

    Raises:
        UserError: the file is missing, broken, a pickle, incomplete, or of another family.
    """
    import torch
    from diffusers import SchedulerMixin

    base = SHAPES / _base_of(path)
    if issubclass(cls, SchedulerMixin):
        return cls.from_pretrained(base, subfolder=subfolder)
    if shapes_only:
        return cls.from_config(json.loads((base / subfolder / "config.json").read_text(encoding="utf-8"))).eval()
    try:
        model = cls.from_single_file(
            path, config=str(base), subfolder=subfolder, local_files_only=True, torch_dtype=getattr(torch, dtype)
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} (backbone.path) does not hold the {subfolder} of Stable Diffusion: {reason}"
        ) from error
    lacking = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if lacking:
        raise UserError(
            f"{path} (backbone.path) lacks {len(lacking)} weights of a {cls.__name__}, {lacking[0]} first; "
            f"give a whole file, or a folder in the diffusers layout."
        )
    return model.eval()


def _base_of(path: str) -> str:
    """Name in `SHAPES` of the Stable Diffusion whose U-Net a file holds."""
    from safetensors import SafetensorError, safe_open

    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path} (backbone.path); correct the path or copy the model there.")
    if file.suffix != ".safetensors":
        raise UserError(f"{path} (backbone.path) is a pickle, which can run code; give it as .safetensors.")
    try:
        with safe_open(file, "pt") as opened:
            names = [
                name
                for name in opened.keys()  # noqa: SIM118 (no dictionary)
                if name.startswith("model.diffusion_model.") and name.endswith("attn2.to_k.weight")
            ]
            width = opened.get_slice(names[0]).get_shape()[1] if names else 0
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} (backbone.path) cannot be read ({error}); copy it again.") from error
    if width not in BASES:
        found = f"captions of width {width}" if width else "no U-Net of Stable Diffusion"
        raise UserError(
            f"{path} (backbone.path) has {found}; only Stable Diffusion 1.x, 2.x and XL are known as single files."
        )
    return BASES[width]

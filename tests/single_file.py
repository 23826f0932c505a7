"""A folder in the diffusers layout written as one file, under the names of the original releases."""

import re
from pathlib import Path

from safetensors.torch import load_file, save_file

UNET = [
    (r"^time_embedding\.linear_1", "time_embed.0"), (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"), (r"^conv_norm_out", "out.0"), (r"^conv_out", "out.2"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
]  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip


def unet_name(name: str) -> str:
    for pattern, theirs in UNET:
        name = re.sub(pattern, theirs, name)
    if ".resnets." in name:
        name = re.sub("|".join(RESNET), lambda found: RESNET[found[0]], name)

    def number(found: re.Match) -> str:
        path, level, kind, index = found[1], int(found[2]), found[3], int(found[4])
        if path == "down":
            block = 3 * level + index + 1 if kind != "downsamplers" else 3 * (level + 1)
            return f"input_blocks.{block}." + {"resnets": "0", "attentions": "1", "downsamplers": "0"}[kind]
        block = 3 * level + index if kind != "upsamplers" else 3 * level + 2
        return (
            f"output_blocks.{block}."
            + {"resnets": "0", "attentions": "1", "upsamplers": "1" if level == 0 else "2"}[kind]
        )

    name = re.sub(r"^(down|up)_blocks\.(\d)\.(\w+)\.(\d)", number, name)
    if name.startswith("input_blocks"):
        name = re.sub(r"\.0\.conv\.", ".0.op.", name)
    name = re.sub(r"^mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}", name)
    return f"model.diffusion_model.{name}"


def vae_name(name: str, levels: int = 4) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{levels - 1 - int(found[1])}.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        name = re.sub(r"to_([qkv])\.", r"\1.", name).replace("to_out.0", "proj_out")
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    return f"first_stage_model.{name}"


def save_single_file(folder: Path, file: Path) -> Path:
    weights = {}
    for name, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        weights[unet_name(name)] = value
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        theirs = vae_name(name)
        is_attention = ".mid.attn_1." in theirs and value.ndim == 2
        weights[theirs] = value[:, :, None, None].contiguous() if is_attention else value
    save_file(weights, file)
    return file

"""Image encoders of open_clip, such as ViT-H/14, with weights from a local checkpoint."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sspir.encoders.patch import CLIP_MEAN, CLIP_STD, PatchEncoder, chosen_layers, preprocess, require_width
from sspir.errors import UserError
from sspir.pretrained.hub import in_cache, must_come_from_hub
from sspir.pretrained.load import builds_shapes_only

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")


class OpenCLIPImageEncoder(PatchEncoder, ModelMixin, ConfigMixin):
    """The vision tower of an open_clip model; its tokens are taken before the final layer norm.

    Args:
        vision: open_clip's `vision_cfg` of a plain vision transformer.
        embed_dim: width of the embedding that images and texts share, which the tower ends in.
        quick_gelu: activation of OpenAI's CLIPs.
        taken: layers whose outputs are the result, 1 for the first.
        mean: of the training pixels, per channel.
        std: of the training pixels, per channel.
        class_token: whether the token of the whole image is part of the result.
        weights_dtype: type of the weights.
    """

    @register_to_config
    def __init__(
        self,
        vision: Mapping[str, Any],
        embed_dim: int,
        taken: Sequence[int],
        quick_gelu: bool = False,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        class_token: bool = False,
        weights_dtype: str = "float32",
    ) -> None:
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        super().__init__()
        tower = CLIPVisionCfg(**{**vision, "layers": max(taken)})
        self.tower = _build_vision_tower(embed_dim, tower, quick_gelu)
        self.cast(weights_dtype)

    @classmethod
    def from_open_clip(
        cls,
        path: str,
        model: str | None = None,
        dim: int = 1280,
        layer: int | Sequence[int] = -1,
        class_token: bool = False,
        revision: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """A frozen pretrained vision tower.

        Args:
            path: a checkpoint of open_clip, a folder with one and its open_clip_config.json, or a hub id of such.
            model: open_clip's name of the architecture, e.g. "ViT-H-14"; None where the folder has its configuration.
            dim: width of the tokens; the configuration states it for the parts that depend on it.
            layer: whose output to take, 1 for the first, -1 for the last; several are joined.
            class_token: whether the first token is part of the result.
            revision: commit, tag or branch of a hub id.
            dtype: of the weights: "float32", "bfloat16" or "float16".

        Raises:
            UserError: the weights cannot be loaded, or are of another model.
        """
        described, file = find_model(path, revision, model)
        vision = described["vision_cfg"]
        depth, width = vision.get("layers"), vision.get("width")
        if not isinstance(depth, int) or vision.get("timm_model_name"):
            raise UserError(f"{path} (image_encoder.model) is no plain vision transformer; choose a ViT of open_clip.")
        layers = chosen_layers(layer, depth, path)
        require_width(path, width, layers, dim)
        encoder = cls(
            vision, described["embed_dim"], layers, described.get("quick_gelu", False),
            described.get("mean", CLIP_MEAN), described.get("std", CLIP_STD), class_token, dtype,
        )  # fmt: skip
        if file is not None:
            unneeded = tuple(f"transformer.resblocks.{number}." for number in range(layers[-1], depth))
            load_tower(encoder.tower, file, unneeded)
        return encoder.eval()

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, size, size), as open_clip's "squash"."""
        return preprocess(images, self.config.vision["image_size"], self.config.mean, self.config.std, antialias=True)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Hidden states (B, 1 + patches, width) of the chosen layers."""
        found = self.tower.forward_intermediates(
            pixels, [number - 1 for number in self.config.taken], intermediates_only=True, output_fmt="NLC",
            output_extra_tokens=True,
        )  # fmt: skip
        pairs = zip(found["image_intermediates_prefix"], found["image_intermediates"], strict=True)
        return [torch.cat(pair, dim=1) for pair in pairs]


def find_model(path: str, revision: str | None, model: str | None) -> tuple[dict[str, Any], Path | None]:
    """A model's configuration, and the file of its weights (None where only shapes are built).

    Raises:
        UserError: it is not here, or not described.
    """
    given = Path(path).expanduser()
    folder, file = (given.parent, given) if given.is_file() else (given, None)
    shapes = builds_shapes_only()
    if file is None and not given.is_dir():
        cached = in_cache(path, "", revision, (CONFIG,))
        whole = shapes or (cached and any((cached.parent / name).is_file() for name in WEIGHTS))
        if not whole and must_come_from_hub(path, "image_encoder.path", "", revision, WEIGHTS):
            cached = _download(path, revision)
        folder = cached.parent if cached else given
    if file is None and not shapes:
        file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if file is None:
            raise UserError(f"{path} (image_encoder.path) holds none of {', '.join(WEIGHTS)}; copy the weights there.")
    return _describe(folder, model, path), None if shapes else file


def _describe(folder: Path, model: str | None, path: str) -> dict[str, Any]:
    """Architecture and preprocessing, from the folder's configuration or by open_clip's name."""
    import open_clip

    described: dict[str, Any] = {}
    if model is not None:
        if (known := open_clip.get_model_config(model)) is None:
            raise UserError(f"image_encoder.model={model} is none of open_clip's architectures, such as ViT-H-14.")
        described = known
    if (folder / CONFIG).is_file():
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kept = {
            key: config["preprocess_cfg"][key] for key in ("mean", "std") if key in config.get("preprocess_cfg", {})
        }
        described = {**(described or config["model_cfg"]), **kept}
    if not described:
        raise UserError(f"{path} has no {CONFIG}; name its architecture with image_encoder.model, e.g. ViT-H-14.")
    return described


def _download(path: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        config = Path(hf_hub_download(path, CONFIG, revision=revision))
        try:
            hf_hub_download(path, WEIGHTS[0], revision=revision)
        except EntryNotFoundError:
            hf_hub_download(path, WEIGHTS[1], revision=revision)
        return config
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} (image_encoder.path) cannot be had from the hub ({reason}); copy its {CONFIG} and {WEIGHTS[0]} to "
            f"a folder and set image_encoder.path to that."
        ) from error


def load_tower(tower: nn.Module, file: Path, unneeded: tuple[str, ...] = ()) -> None:
    """Fill a vision tower from a whole checkpoint, every weight accounted for.

    Args:
        tower: open_clip's.
        file: the checkpoint.
        unneeded: beginnings of names of the tower's weights that are left out.

    Raises:
        UserError: the file cannot be read, or is of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
    except (OSError, RuntimeError, ValueError, SafetensorError, EOFError, KeyError, UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} (image_encoder.path) cannot be read ({reason}); copy it again.") from error
    state = {key.removeprefix("module."): value for key, value in state.items()}
    wanted = tower.state_dict()
    found = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    faults = [f"lacks {key}" for key in sorted(wanted.keys() - found.keys())]
    faults += [f"has an unknown {key}" for key in sorted(found.keys() - wanted.keys()) if not key.startswith(unneeded)]
    faults += [
        f"has {key} of {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    if faults:
        raise UserError(
            f"{file} (image_encoder.path) is of another model: it {faults[0]} ({len(faults)} differences in all); "
            f"check image_encoder.model."
        )
    tower.load_state_dict({key: found[key] for key in wanted})

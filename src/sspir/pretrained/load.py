"""Load pretrained weights from a folder, a file or the hub; files that lack a weight are refused.

transformers and diffusers draw missing weights at random and only log it; a prior of random weights would train
without a word.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sspir.errors import UserError
from sspir.pretrained.hub import expanded, find_shape, must_come_from_hub

_shapes_only: ContextVar[bool] = ContextVar("shapes_only", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within, models are built on the meta device from their configurations: shapes and counts, no weights."""
    import torch

    token = _shapes_only.set(True)
    try:
        with torch.device("meta"):
            yield
    finally:
        _shapes_only.reset(token)


def builds_shapes_only() -> bool:
    """Whether `shapes_only` is in force."""
    return _shapes_only.get()


def load_transformers(
    cls: Any,
    path: str,
    setting: str,
    subfolder: str = "",
    revision: str | None = None,
    dtype: str = "float32",
    quantization: Any = None,
    device: str | None = None,
) -> Any:
    """Load a model of transformers in evaluation mode.

    Args:
        cls: `CLIPTextModel`, `AutoModelForImageTextToText` or a kindred class.
        path: a local folder or a hub id.
        setting: the configuration key that names the path, for messages.
        subfolder: of the folder or repository, e.g. "text_encoder".
        revision: commit, tag or branch of a hub id.
        dtype: of the weights; "auto": as in the file.
        quantization: configuration of transformers for 8- or 4-bit weights.
        device: to load quantized weights to; others come to the CPU's memory.

    Raises:
        UserError: if the folder is missing or incomplete, the hub cannot be reached, or weights are missing.
    """
    from safetensors import SafetensorError

    path = expanded(path)
    if builds_shapes_only():
        return _shape(cls, find_shape(path, setting, subfolder, revision), dtype)
    local = not must_come_from_hub(path, setting, subfolder, revision)
    placed = {"quantization_config": quantization, "device_map": {"": device}} if quantization else {}
    try:
        with _quiet():
            model, info = cls.from_pretrained(
                path, subfolder=subfolder, revision=revision or "main", dtype=dtype, local_files_only=local,
                output_loading_info=True, trust_remote_code=False, **placed,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise refusal(cls, path, setting, "model.safetensors", subfolder, local, error) from error
    _require_whole(cls, path, setting, info)
    return model.eval() if quantization else unmapped(model.eval())


def _shape(cls: Any, config: dict[str, Any], dtype: str) -> Any:
    """A model of transformers as its configuration describes it; of a whole CLIP, the half that the class is."""
    import torch

    half = {"clip_text_model": "text_config", "clip_vision_model": "vision_config"}.get(cls.config_class.model_type)
    arguments = config.get(half or "", config)
    return cls(cls.config_class(**arguments)).to(getattr(torch, dtype)).eval()


def load_preprocessor(path: str, setting: str, revision: str | None = None) -> Any:
    """The preprocessor of a vision-language model: tokenizer, image preprocessing and chat template.

    Raises:
        UserError: as `load_transformers`, or if it has no chat template.
    """
    from transformers import AutoProcessor

    path = expanded(path)
    local = not must_come_from_hub(path, setting, revision=revision)
    try:
        preprocessor = AutoProcessor.from_pretrained(
            path, revision=revision or "main", local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        raise refusal(AutoProcessor, path, setting, "tokenizer.json", "", local, error) from error
    if not getattr(preprocessor, "chat_template", None):
        raise UserError(f"{path} ({setting}) has no chat template; take a model that answers questions about images.")
    return preprocessor


def load_diffusers(cls: Any, path: str, subfolder: str, revision: str | None = None, dtype: str = "float32") -> Any:
    """Load a part of a Stable Diffusion: a model in evaluation mode, or a scheduler.

    Args:
        cls: a class of diffusers.
        path: a local folder in the diffusers layout, a single .safetensors file in the layout of the original
            releases, or a hub id.
        subfolder: where the part stands, e.g. "unet".
        revision: commit, tag or branch of a hub id.
        dtype: of the weights of a model.

    Raises:
        UserError: as `load_transformers`.
    """
    import torch
    from diffusers import SchedulerMixin
    from safetensors import SafetensorError

    path = expanded(path)
    if path.endswith((".safetensors", ".ckpt")):
        from sspir.pretrained.single_file import load_single_file

        part = load_single_file(cls, path, subfolder, dtype, builds_shapes_only())
        return unmapped(part) if isinstance(part, torch.nn.Module) else part
    is_scheduler = issubclass(cls, SchedulerMixin)
    if builds_shapes_only():
        loaded = cls.from_config(find_shape(path, "backbone.path", subfolder, revision))
        return loaded if is_scheduler else torch.nn.Module.to(loaded, getattr(torch, dtype)).eval()
    local = not must_come_from_hub(path, "backbone.path", subfolder, revision)
    options = {} if is_scheduler else {"output_loading_info": True, "dtype": getattr(torch, dtype)}
    try:
        loaded = cls.from_pretrained(path, subfolder=subfolder, revision=revision, local_files_only=local, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        name = "scheduler_config.json" if is_scheduler else "diffusion_pytorch_model.safetensors"
        raise refusal(cls, path, "backbone.path", name, subfolder, local, error) from error
    if is_scheduler:
        return loaded
    model, info = loaded
    _require_whole(cls, path, "backbone.path", info)
    return unmapped(model)


def load_unet(path: str, revision: str | None = None, lora: str | None = None, lora_scale: float | None = None) -> Any:
    """The U-Net of a Stable Diffusion, in float32.

    Args:
        path: as of `load_diffusers`.
        revision: of a hub id.
        lora: somebody's LoRA, which becomes a part of it; see `fuse_adapter`.
        lora_scale: its strength; None is 1.

    Raises:
        UserError: as `load_diffusers` and `fuse_adapter`.
    """
    from diffusers import UNet2DConditionModel

    unet = load_diffusers(UNet2DConditionModel, path, "unet", revision)
    if lora and not builds_shapes_only():
        from sspir.pretrained.adapter import fuse_adapter

        fuse_adapter(unet, lora, 1.0 if lora_scale is None else lora_scale)
    return unet


def load_autoencoder(path: str, revision: str | None = None, dtype: str = "float32") -> Any:
    """The autoencoder of a Stable Diffusion; see `load_diffusers`."""
    from diffusers import AutoencoderKL

    return load_diffusers(AutoencoderKL, path, "vae", revision, dtype)


def load_noise_schedule(path: str, revision: str | None = None, prediction_type: str | None = None) -> Any:
    """The noise schedule that a Stable Diffusion was trained with; see `load_diffusers`.

    Args:
        path: as of `load_diffusers`.
        revision: of a hub id.
        prediction_type: "epsilon" or "v_prediction"; None takes what the folder says.

    Raises:
        UserError: if it cannot be had, or a single file of Stable Diffusion 2.x leaves the prediction type open.
    """
    from diffusers import DDPMScheduler

    schedule = load_diffusers(DDPMScheduler, path, "scheduler", revision)
    if prediction_type not in (None, "epsilon", "v_prediction"):
        raise UserError(f"noise_schedule.prediction_type={prediction_type} is not known; epsilon or v_prediction are.")
    if prediction_type is not None:
        schedule.register_to_config(prediction_type=prediction_type)
    elif path.endswith(".safetensors") and schedule.config.prediction_type == "v_prediction":
        raise UserError(
            f"{path} does not say what its network predicts; set noise_schedule.prediction_type to v_prediction "
            f"(Stable Diffusion 2.1) or epsilon (2.1-base)."
        )
    return schedule


def refusal(
    cls: Any, path: str, setting: str, weights: str, subfolder: str, local: bool, error: Exception
) -> UserError:
    """The sentence for weights that cannot be loaded: which files are needed, and which setting points to them."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    files = f"{subfolder}/{weights}" if weights == "scheduler_config.json" else f"config.json and {weights}"
    where = f" in its folder {subfolder}" if subfolder else ""
    if local:
        return UserError(f"{path} ({setting}) does not hold {files}{where} of a {cls.__name__}: {reason}")
    return UserError(
        f"{path} ({setting}) cannot be had from the hub ({reason}); get its {files}{where} another way and set "
        f"{setting} to the folder."
    )


def _require_whole(cls: Any, path: str, setting: str, info: dict[str, Any]) -> None:
    lacking = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind, ()))
    if lacking:
        raise UserError(
            f"{path} ({setting}) lacks {len(lacking)} weights of a {cls.__name__}, {lacking[0]} first; "
            f"give the folder or hub id of a whole one."
        )


def require_whole(folder: Path, name: str, part: Any) -> None:
    """Refuse a part of a saved pipeline whose files do not hold all its weights.

    Args:
        folder: of the pipeline; one that is not here is not looked into.
        name: of the part, and of its folder.
        part: as loaded.
    """
    from safetensors import safe_open

    held: set[str] = set()
    for file in (folder / name).glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            held |= set(weights.keys())
    lacking = sorted({key for key, _ in part.named_parameters()} - held)
    if held and lacking:
        raise UserError(
            f"The pipeline in {folder} is broken ({name} lacks {len(lacking)} of its weights, {lacking[0]} first); "
            f"save or copy it again."
        )


def unmapped(model: Any) -> Any:
    """Take weights out of the mapped file: its addresses make some kernels round differently, and files change."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of unused weights: half of CLIP is unused in each of its halves."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)

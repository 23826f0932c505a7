"""What a configuration must hold, and where the shipped ones stand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sspir.config import outside
from sspir.config.build import refusal
from sspir.config.sweep import ablated, swept
from sspir.errors import UserError


@dataclass
class TrainConfig:
    """Top level of a training configuration; below it, constructors are the schema.

    Attributes:
        name: of the experiment: groups runs on disk and in W&B.
        variant: named after its ablations: "none" is the full method.
        ablations: name -> true, as each file of conf/ablation says; several give a variant such as "a+b".
        seed: of data order, crops, degradations, noise and new weights.
        scale: upscaling of the low-quality images.
        sweep: settings that a multirun varies, beside ablation and seed; they become a part of the variant's name.
        resume: "auto" goes on with the run folder's last checkpoint if there is one, "must" insists on one, "never"
            starts anew; the name of a checkpoint, such as "last-1", goes on from that one.
        folder: of the run.
        batch_size: images per step and device.
        workers: processes that read and cut photos, per device.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the last ones are kept; the best one is kept besides.
        monitor: validation metric by which the best checkpoint is kept.
        matmul_precision: of float32 products on GPUs: "highest", "high" or "medium".
        threads: CPU threads of torch; null leaves its own choice.
    """

    name: str = MISSING
    variant: str = "none"
    ablations: dict[str, bool] = field(default_factory=dict)
    seed: int = 0
    scale: int = 4
    sweep: list[str] = field(default_factory=list)
    folder: str = MISSING
    batch_size: int = 16
    workers: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    monitor: str = "psnr_y"
    resume: str = "auto"
    matmul_precision: str = "high"
    threads: int | None = None
    backbone: Any = MISSING
    vae: Any = MISSING
    noise_schedule: Any = MISSING
    text_encoder: Any = MISSING
    image_encoder: Any = MISSING
    refine: Any = MISSING
    captioner: Any = MISSING
    processor: Any = MISSING
    loss: Any = MISSING
    dataset: Any = MISSING
    data: Any = MISSING
    degradation: Any = MISSING
    sampler: Any = MISSING
    metric: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = None
    module: Any = MISSING
    trainer: Any = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """Top level of an evaluation.

    Attributes:
        run: folder of a trained run or of a saved pipeline.
        checkpoint: of a run: "last", "best" or a file name.
        benchmark: what is restored.
        metric: what is measured: name -> metric.
        captioner: of photos that come without words; null for the one that the run was trained with.
        sampler: changes to the run's own sampler.
        out: folder for restored images, `per_image.csv` and `summary.json`; by default it names the checkpoint and what
            differs from the default evaluation. One that was stopped goes on; what is of another one is replaced.
        seed: of the sampler's noise.
        limit: number of images; null for all.
        crop_border: pixels at each side of every picture that are not measured.
        noise_control: add rows of plain noise at the restoration's PSNR, which a restoration has to beat.
        device: "auto" takes a GPU where there is one.
        wandb: the W&B run; null for none.
    """

    run: str = MISSING
    checkpoint: str = "last"
    benchmark: Any = MISSING
    metric: Any = MISSING
    captioner: Any = None
    sampler: dict[str, Any] = field(default_factory=dict)
    out: str = MISSING
    seed: int = 0
    limit: int | None = None
    crop_border: int = 0
    noise_control: bool = False
    device: str = "auto"
    wandb: Any = None


def home() -> Path:
    """The folder that holds `conf/` and `experiments/`: the package's own, or the checkout's."""
    package = Path(__file__).parents[1]
    return package if (package / "conf").is_dir() else package.parents[1]


class OwnConfigurations(SearchPathPlugin):
    """Has Hydra look for every group in people's own folders first: in FOLDER/conf, and beside it for experiments."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folders before `conf/`."""
        for place in _places(outside.folders()):
            search_path.prepend(outside.VARIABLE, f"file://{place}", anchor="main")


def _places(folders: Sequence[Path]) -> list[Path]:
    """Where groups of configurations are folders, in the order in which they are looked for."""
    return [place for folder in folders for place in (folder / "conf", folder) if place.is_dir()]


def register() -> None:
    """Tell Hydra about the schemas, the resolvers and people's own folders. Calling it twice does no harm.

    `${repo:}` is the folder of `conf/`, `${absolute:PATH}` a path from the root and `${ends:PATH}` its last two parts,
    `${swept:}` what a sweep varies, and `${evaluation:}` checkpoint and settings of an evaluation in words.
    """
    outside.activate()
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    OmegaConf.register_new_resolver("repo", lambda: str(home()), replace=True)
    OmegaConf.register_new_resolver("swept", swept, replace=True)
    OmegaConf.register_new_resolver("ablated", ablated, replace=True)
    OmegaConf.register_new_resolver("absolute", lambda path: str(Path(path).absolute()), replace=True)
    OmegaConf.register_new_resolver("ends", lambda path: "/".join(Path(path).absolute().parts[-2:]), replace=True)
    OmegaConf.register_new_resolver("evaluation", _evaluation, replace=True)
    Plugins.instance().register(OwnConfigurations)


def _evaluation(_root_: DictConfig) -> str:
    from sspir.evaluation.record import folder_name

    return folder_name(_root_)


def choices(group: str) -> list[str]:
    """The choices of a group, such as "captioner" or "experiments": sspir's and people's own."""
    return sorted(
        {path.stem for place in _places([*outside.folders(), home()]) for path in (place / group).glob("*.yaml")}
    )


def told(error: Exception) -> UserError | None:
    """The sentence for people in an error, where there is one: our own, or what Hydra says of a configuration."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, YAMLError | OmegaConfBaseException):
        return UserError(" ".join(str(error).split()))
    if not isinstance(error, HydraException):
        return None
    if isinstance(error, InstantiationException):
        return refusal(error)
    return error.__cause__ if isinstance(error.__cause__, UserError) else None


def load_choice(group: str, name: str) -> DictConfig:
    """The configuration that a command's flag names.

    Args:
        group: folder of `conf/`.
        name: of a choice of the group, or the path of a YAML file.

    Raises:
        UserError: there is no such choice or file.
    """
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return OmegaConf.load(name)  # type: ignore[return-value]  # a choice is a mapping
    if name not in (known := choices(group)):
        raise UserError(f"There is no {group} {name}; choose one of {', '.join(known)}, or give a .yaml file.")
    choice: DictConfig = compose_config(f"{group}/{name}")[group]
    return choice


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration, as the command line does, for notebooks and tests.

    Args:
        name: "train", "evaluate", or a file below `conf/`.
        overrides: Hydra's, such as "experiments=tiny".

    Raises:
        UserError: a key, a choice or a value is not known.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(home() / "conf"), version_base="1.3"):
        try:
            return compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            raise UserError(" ".join(str(error).split())) from error

"""A tiny training run from the shipped `experiments=tiny`."""

from pathlib import Path

from omegaconf import DictConfig

from sspir.config.compose import compose_config
from sspir.training.fit import train

OVERRIDES = [
    "experiments=tiny",
    "logger=jsonl",
    "workers=0",
    "batch_size=2",
    "checkpoint_every=2",
    "trainer.max_steps=4",
    "trainer.precision=32-true",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    "schedule.num_training_steps=4",
    "schedule.num_warmup_steps=1",
    "module.structure_steps=2",
    "backbone.unet.block_out_channels=[8,8,16]",
    "backbone.unet.norm_num_groups=4",
    "processor.front_features=8",
    "processor.front_blocks=1",
    "processor.channels=[4,4,8]",
    "dataset.train.crop.size=32",
    "dataset.validation.photos.crop.size=32",
    "sampler.steps=2",
]

ONE_STEP = [
    "objective=one_step",
    "objective.terms.lpips.weight=0",
    "objective.adversary.network.width=4",
    "objective.adversary.optimizer.lr=1e-3",
    "sampler.steps=1",
    "module.structure_steps=0",
    "data.passes=4",
]

SCORE = [
    *ONE_STEP[1:],
    "objective=score_distillation",
    "objective.terms.lpips.weight=0",
    "objective.adversary.weight=0",
    "objective.optimizer.lr=1e-2",
]

CONSISTENCY = [
    "objective=consistency",
    "sampler.scheduler=LCMScheduler",
    "sampler.steps=2",
    "module.structure_steps=0",
    "data.passes=4",
]


def roots(photos: Path) -> list[str]:
    """Overrides by which the same photos are for training and for validation."""
    return [f"dataset.train.root={photos}", f"dataset.validation.photos.root={photos}"]


def tiny_config(folder: Path, photos: Path, *overrides: str) -> DictConfig:
    places = [f"folder={folder}", *roots(photos)]
    return compose_config("train", [*OVERRIDES, *places, *overrides])


def tiny_run(folder: Path, photos: Path, *overrides: str) -> dict[str, float]:
    return train(tiny_config(folder, photos, *overrides))

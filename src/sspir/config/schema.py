"""What a configuration must hold; values stand in conf/train.yaml and conf/evaluate.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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
        init: model whose weights the training begins with: a run, a pipeline, or "shipped"; null for new ones.
        init_skip: patterns of weights that need not fit it.
        folder: of the run.
        batch_size: images per step and device.
        workers: processes that read and cut photos, per device.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the last ones are kept; the best one is kept besides.
        keep_every: steps between milestones, checkpoints that are never removed; 0 keeps none.
        monitor: validation metric by which the best checkpoint is kept.
        matmul_precision: of float32 products on GPUs: "highest", "high" or "medium".
        threads: CPU threads of torch; null leaves its own choice.
    """

    name: str = MISSING
    variant: str = MISSING
    ablations: dict[str, bool] = MISSING
    seed: int = MISSING
    scale: int = MISSING
    sweep: list[str] = MISSING
    folder: str = MISSING
    batch_size: int = MISSING
    workers: int = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int = MISSING
    keep_every: int = MISSING
    monitor: str = MISSING
    resume: str = MISSING
    init: str | None = None
    init_skip: list[str] = field(default_factory=list)
    matmul_precision: str = MISSING
    threads: int | None = MISSING
    backbone: Any = MISSING
    vae: Any = MISSING
    noise_schedule: Any = MISSING
    text_encoder: Any = MISSING
    image_encoder: Any = MISSING
    refine: Any = MISSING
    captioner: Any = MISSING
    processor: Any = MISSING
    loss: Any = MISSING
    objective: Any = MISSING
    dataset: Any = MISSING
    data: Any = MISSING
    degradation: Any = MISSING
    sampler: Any = MISSING
    metric: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = None  # of an optimizer that has none
    module: Any = MISSING
    trainer: Any = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """Top level of an evaluation.

    Attributes:
        run: folder of a trained run or of a saved pipeline.
        checkpoint: of a run: "last", "best" or a file name; "all" evaluates the milestones, the last and the best one.
        choose_on: with checkpoint=all, the name of the benchmark whose numbers choose the best step; null for this one.
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
        peers: other people's restorers, which restore the same pictures: names in conf/peer, or files for spandrel.
        cost: measure CPU seconds, parameters and multiplications of every method.
        device: "auto" takes a GPU where there is one.
        wandb: the W&B run; null for none.
    """

    run: str = MISSING
    checkpoint: str = MISSING
    choose_on: str | None = None
    benchmark: Any = MISSING
    metric: Any = MISSING
    captioner: Any = None
    sampler: dict[str, Any] = MISSING
    out: str = MISSING
    seed: int = MISSING
    limit: int | None = MISSING
    crop_border: int = MISSING
    noise_control: bool = MISSING
    peers: list[str] = MISSING
    cost: bool = MISSING
    device: str = MISSING
    wandb: Any = MISSING


@dataclass
class SearchConfig:
    """A search: `hydra.sweeper` of `sspir sweep`; values stand in conf/hydra/sweeper/optuna.yaml.

    Attributes:
        study: name of the study.
        folder: of the study, which holds its SQLite file.
        n_trials: finished trials of the study that end the search.
        n_jobs: trials that are launched at a time.
        objectives: validation metrics; several give a Pareto front. A trial has the values of the validation at which
            the first one was best.
        seed: of the sampler: each trial draws with a seed of its own.
        sampler: of Optuna; takes a seed.
        pruner: of Optuna, which is asked after each validation; null for none.
        params: setting -> what it varies over, beside the command line, which goes before.
        trial: number of the trial that a job is; null outside of one.
    """

    _target_: str = "hydra_plugins.sspir_optuna.OptunaSweeper"
    _recursive_: bool = False
    study: str = MISSING
    folder: str = MISSING
    n_trials: int = MISSING
    n_jobs: int = MISSING
    objectives: list[str] = MISSING
    seed: int = MISSING
    sampler: Any = MISSING
    pruner: Any = None
    params: dict[str, str] = field(default_factory=dict)
    trial: int | None = None

"""`sspir sweep`: a search by Optuna through Hydra's jobs, or the file of a W&B sweep."""

import sys
from pathlib import Path
from typing import Any

from sspir.commands.parser import Parser
from sspir.errors import UserError

HELP = """sspir sweep - search for the best settings of a training

usage: sspir sweep experiments=NAME KEY=VARIED ... [KEY=VALUE ...] [hydra.sweeper.KEY=VALUE ...] [--path DIR]
       sspir sweep --wandb [--method bayes|random] [--out FILE] experiments=NAME KEY=VARIED ... [KEY=VALUE ...]

  sspir sweep experiments=tiny 'optimizer.lr=tag(log,interval(1e-4,1e-2))' hydra.sweeper.n_trials=20
  sspir sweep experiments=tiny 'ablation=choice(none,no_explicit)' 'batch_size=range(8,33,8)'
  sspir sweep ... hydra/launcher=joblib hydra.launcher.n_jobs=2 hydra.sweeper.n_jobs=2    two at a time
  sspir sweep ... 'hydra.sweeper.objectives=[psnr_y,ssim_y]'    the front of both, without pruning
  sspir sweep ... hydra.sweeper.pruner=null                     every trial trains to its end
  sspir report runs/tiny                                        trials, importance, what goes with what
  sspir sweep --wandb experiments=tiny 'optimizer.lr=interval(1e-5,1e-3)'   for `wandb sweep sweep.yaml`

VARIED is interval(LOW,HIGH), int(interval(LOW,HIGH)), range(FROM,BELOW,STEP), choice(A,B) or glob(*);
tag(log,...) draws evenly in the logarithm. A trial's value is the best of `monitor` over its run, a run folder as any.
The study is in runs/NAME/sweep-STUDY/study.db: the same command goes on with it, finished trials count.
All keys of hydra.sweeper: conf/hydra/sweeper/optuna.yaml. It takes Optuna: pip install 'sspir[search]'.
"""


def run(arguments: list[str]) -> int:
    """Search, or write the file of a W&B sweep. Returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    if "--wandb" in arguments:
        return _write_sweep_file(arguments)

    from sspir.commands.hydra import hydra_command

    return hydra_command("train", "sspir.training.search:run", ["--multirun", "hydra/sweeper=optuna", *arguments])


def _write_sweep_file(arguments: list[str]) -> int:
    """Write what `wandb sweep FILE` takes."""
    parser = Parser("sspir sweep", "Write the file of a W&B sweep.", HELP)
    parser.add_argument("--wandb", action="store_true")
    parser.add_argument("--method", choices=["bayes", "random"], default="bayes")
    parser.add_argument("--out", type=Path, default=Path("sweep.yaml"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)

    import yaml

    from sspir.files import write_text

    made = yaml.safe_dump(_sweep_file(options.overrides, options.method), sort_keys=False, width=1000)
    write_text(options.out, made)
    sys.stdout.write(f"{options.out}: wandb sweep {options.out}, then on each machine the agent that it names\n")
    return 0


def _sweep_file(overrides: list[str], method: str) -> dict[str, Any]:
    """A sweep of W&B, whose agents start `sspir train`; each run has a folder of its own."""
    from omegaconf import OmegaConf

    from sspir.config import outside
    from sspir.config.compose import compose_config, varied_by_file
    from sspir.config.space import split_space
    from sspir.config.sweep import naming
    from sspir.training.search import good_end

    fixed, space = split_space([*varied_by_file(overrides), *overrides])
    config = compose_config("train", fixed)
    if "wandb" not in config.logger:
        raise UserError("An agent of W&B sees what a run logs there: take logger=wandb.")
    place: Any = OmegaConf.to_container(config)
    paths = [text for own in outside.folders() for text in ("--path", str(own))]
    return {
        "program": "sspir",
        "project": config.logger.wandb.project,
        "method": method,
        "metric": {"name": f"val/{config.monitor}", "goal": f"{good_end(config, config.monitor)}imize"},
        "parameters": {each.key: each.for_wandb() for each in space},
        "command": [
            "${env}", "${interpreter}", "-m", "${program}", "train", *paths, *fixed,
            *naming(each.name for each in space), f"folder='{place['folder']}-${{oc.env:WANDB_RUN_ID}}'",
            "${args_no_hyphens}",
        ],
    }  # fmt: skip

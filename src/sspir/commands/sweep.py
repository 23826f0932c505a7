"""`sspir sweep`: a search by Optuna through Hydra's jobs, or the file of a W&B sweep."""

import sys

from sspir.commands.hydra import hydra_command

HELP = """sspir sweep - search for the best settings of a training

usage: sspir sweep experiments=NAME KEY=VARIED ... [KEY=VALUE ...] [hydra.sweeper.KEY=VALUE ...] [--path DIR]
       sspir sweep --wandb [--method bayes|random|grid] [--out FILE] experiments=NAME KEY=VARIED ... [KEY=VALUE ...]

  sspir sweep experiments=tiny 'optimizer.lr=tag(log,interval(1e-4,1e-2))' hydra.sweeper.n_trials=20
  sspir sweep experiments=tiny 'ablation=choice(none,no_explicit)' 'batch_size=range(8,33,8)'
  sspir sweep ... hydra/launcher=joblib hydra.launcher.n_jobs=2 hydra.sweeper.n_jobs=2      two trials at a time
  sspir sweep ... 'hydra.sweeper.objectives=[psnr_y,ssim_y]'    the front of both, without pruning
  sspir sweep ... hydra.sweeper.pruner=null                     every trial trains to its end
  sspir report runs/tiny                                        trials, importance, what goes with what
  sspir sweep --wandb experiments=tiny 'optimizer.lr=interval(1e-5,1e-3)'   writes sweep.yaml; then: wandb sweep sweep.yaml

VARIED is interval(LOW,HIGH), int(interval(LOW,HIGH)), range(FROM,BELOW,STEP), choice(A,B) or glob(*); tag(log,...) draws
evenly in the logarithm. A trial's value is the best one of `monitor` over its run, which is an ordinary run folder.
The study is in runs/NAME/sweep-STUDY/study.db: the same command goes on with it, finished trials count.
All keys of hydra.sweeper: conf/hydra/sweeper/optuna.yaml. It takes Optuna: pip install 'sspir[search]'.
"""


def run(arguments: list[str]) -> int:
    """Search, or write the file of a W&B sweep. Returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    if "--wandb" in arguments:
        from sspir.commands.agents import write_sweep

        return write_sweep([text for text in arguments if text != "--wandb"])
    return hydra_command("train", "sspir.training.search:run", ["--multirun", "hydra/sweeper=optuna", *arguments])

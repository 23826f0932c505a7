"""`sspir evaluate`: Hydra's command line around `sspir.evaluation.evaluate.evaluate`."""

import sys
from pathlib import Path

from sspir.commands.hydra import hydra_command
from sspir.errors import UserError

HELP = """sspir evaluate - restore a benchmark with a trained run and measure

usage: sspir evaluate RUN [RUN ...] benchmark=NAME[,NAME ...] [KEY=VALUE ...]
       sspir evaluate run=FOLDER benchmark=NAME [KEY=VALUE ...]

  sspir evaluate run=runs/tiny/none-s0 benchmark=set14
  sspir evaluate run=runs/tiny/none-s0 benchmark=set14 +sampler.steps=20 out=results/20steps
  sspir evaluate run=runs/tiny/none-s0 benchmark=set14 metric=all limit=3
  sspir evaluate run=runs/tiny/none-s0 benchmark=set14 crop_border=4
  sspir evaluate run=runs/tiny/none-s0 benchmark=set14 captioner=llava captioner.path=/models/llava
  sspir evaluate run=runs/tiny/none-s0 benchmark=set14 peers=[realesrgan,span,mine/x.pth] cost=true
  sspir evaluate runs/tiny/none-s0 runs/tiny/none-s1 benchmark=set14,urban20
  sspir evaluate run=wandb:ENTITY/PROJECT/tiny-none-s0:best benchmark=set14     # fetched once, into the cache
  sspir evaluate --multirun run=runs/tiny/none-s0 benchmark=set14 checkpoint=last,best
  sspir evaluate run=runs/tiny/none-s0 benchmark=urban20,set14 checkpoint=all   # curves; urban20 chooses the best step

`peers` restores the same pictures with other people's networks: choices of conf/peer (`sspir weights get` brings their
weights) and any file that spandrel reads. `cost` adds CPU seconds on one thread, parameters and multiplications.
Writes restored images, the Processor's and the pairs, per_image.csv and summary.json to the folder `out`; by default
RUN/evaluation/BENCHMARK/CHECKPOINT, with what differs from the default settings: set14/last, set14/best-seed1-steps20.
Those of a model that comes along (run=shipped) go to evaluation/shipped/BENCHMARK/CHECKPOINT in the current folder.
The same command again goes on where it was stopped; what is finished is not done again.
"""


def run(arguments: list[str]) -> int:
    """Compose the configuration and evaluate. Returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    from sspir.config.sweep import sharing_out

    given = spelt_out(fetched(arguments))
    if shared := sharing_out(given):
        raise UserError(
            "out= is one folder for several evaluations, which would erase each other; leave it out, or name in it "
            f"what differs ({', '.join(shared)}), as 'out=DIR/${{run}}/${{benchmark.name}}/${{evaluation:}}' does."
        )
    return hydra_command("evaluate", "sspir.evaluation.checkpoints:evaluate_asked", given)


def fetched(arguments: list[str]) -> list[str]:
    """Arguments with the folders of runs that W&B holds, and the checkpoint that they have where none is named.

    Raises:
        UserError: a run cannot be got, or several have different checkpoints.
    """
    from_wandb = [text for text in arguments if text.removeprefix("run=").startswith("wandb:")]
    if not from_wandb:
        return arguments
    from sspir.training.artifacts import fetch

    runs = list(dict.fromkeys(run for text in from_wandb for run in text.removeprefix("run=").split(",")))
    places = [fetch(run.removeprefix("wandb:")) if run.startswith("wandb:") else Path(run) for run in runs]
    sys.stderr.writelines(f"{run} lies in {place}\n" for run, place in zip(runs, places, strict=True))
    others = [text for text in arguments if text not in from_wandb]
    names = {path.stem for place in places for path in place.glob("checkpoints/*.ckpt")}
    if not any(text.startswith("checkpoint=") for text in others):
        if len(names) > 1:
            raise UserError(f"These runs hold the checkpoints {', '.join(sorted(names))}; say which: checkpoint=NAME.")
        others += [f"checkpoint={name}" for name in names]
    return [*map(str, places), *others]


def spelt_out(arguments: list[str]) -> list[str]:
    """Arguments with the runs that stand without `run=` as overrides, and several runs or benchmarks as a multirun.

    The runs come first, so that a multirun has all benchmarks of one run after each other and loads it once.

    Raises:
        UserError: there is no such run; Hydra would make its folder.
    """
    runs = [text for text in arguments if "=" not in text and (text.startswith("~/") or text[:1] not in "-~")]
    others = [text for text in arguments if text not in runs]
    named = [text.removeprefix("run=") for text in others if text.startswith("run=")]
    for run in [*runs, *(run for text in named if "(" not in text for run in text.split(",") if "'" not in run)]:
        if not Path(run).expanduser().is_dir() and not _comes_along(run):
            raise UserError(f"There is no folder {run}; name that of a trained run or of a saved pipeline.")
    if len(named) > 1 or (named and runs):
        raise UserError("run= stands once; several runs are named without it: sspir evaluate RUN RUN benchmark=NAME.")
    quoted = ",".join("'" + run.replace("\\", "\\\\").replace("'", "\\'") + "'" for run in runs)
    several = len(runs) > 1 or any(text.startswith("benchmark=") and "," in text for text in others)
    multirun = ["--multirun"] if several and not {"-m", "--multirun"} & set(others) else []
    return [*multirun, *([f"run={quoted}"] if runs else []), *others, *_chooser(others)]


def _comes_along(run: str) -> bool:
    from sspir.training.saved import folder_of

    return folder_of(run).is_dir()


def _chooser(arguments: list[str]) -> list[str]:
    """The first of several benchmarks chooses the best of all checkpoints, so that the others can report it."""
    given = dict(text.split("=", 1) for text in arguments if "=" in text)
    first, *more = given.get("benchmark", "").split(",")
    if given.get("checkpoint") != "all" or "choose_on" in given or not more or "(" in first:
        return []
    from sspir.config.compose import compose_config

    return [f"choose_on={compose_config('evaluate', [f'benchmark={first}']).benchmark.name}"]

"""`sspir train`: Hydra's command line around `sspir.train.train`."""

import sys

from sspir.commands.hydra import hydra_command

HELP = """sspir train - train a model

usage: sspir train experiments=NAME [ablation=NAME] [KEY=VALUE ...] [--multirun] [--config-dir DIR] [--cfg job]

  sspir train experiments=tiny                         two minutes on a laptop
  sspir train experiments=ssp_ir backbone.path=/models/sd15 trainer.max_steps=1000
  sspir train experiments=tiny ablation=no_rgb_loss    one word per ablation
  sspir train --multirun experiments=tiny 'ablation=glob(*)' seed=0,1,2
  sspir train experiments=tiny --cfg job               show the configuration and do nothing

A run lives in runs/NAME/ABLATION-sSEED. The same command goes on where it stopped; a finished run is skipped.
Several GPUs: torchrun --nproc-per-node 8 -m sspir train experiments=ssp_ir trainer=ddp
"""


def run(arguments: list[str]) -> int:
    """Compose the configuration and train. Returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    return hydra_command("train", "sspir.train:train", arguments)

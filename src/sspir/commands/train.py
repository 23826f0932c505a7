"""`sspir train`: Hydra's command line around `sspir.training.fit.train`."""

import sys
from pathlib import Path

from sspir.commands.hydra import hydra_command, keep_in_log
from sspir.errors import UserError

_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # Hydra's
HELP = """sspir train - train a model

usage: sspir train experiments=NAME [ablation=NAME] [KEY=VALUE ...] [--multirun] [--path DIR] [--cfg job]
       sspir train --from RUN [KEY=VALUE ...]

  sspir train experiments=tiny                         an hour and a half on a laptop
  sspir train experiments=ssp_ir backbone.path=/models/sd15 trainer.max_steps=1000
  sspir train experiments=tiny ablation=no_rgb_loss    one word per ablation
  sspir train experiments=tiny 'ablation=[no_rgb_loss,no_explicit]'   or two, as the variant no_explicit+no_rgb_loss
  sspir train --multirun experiments=tiny 'ablation=glob(*)' seed=0,1,2
  sspir train experiments=tiny --cfg job               show the configuration and do nothing
  sspir train --from runs/tiny/none-s0 folder=again    repeat a run from its own record
  sspir --path mine train experiments=own              code, conf/ and experiments/ of your own

A run lives in runs/NAME/ABLATION-sSEED. The same command goes on where it stopped; a finished run is skipped.
Several GPUs: torchrun --nproc-per-node 8 -m sspir train experiments=ssp_ir trainer=ddp
"""


def run(arguments: list[str]) -> int:
    """Compose the configuration and train. Returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    if "--from" in arguments:
        return _repeat(arguments)

    from sspir.config.sweep import with_swept

    return hydra_command("train", "sspir.training.search:run", with_swept(arguments))


def _repeat(arguments: list[str]) -> int:
    """Train the configuration that a run recorded, in another folder."""
    place = arguments.index("--from")
    if place + 1 == len(arguments):
        raise UserError("--from needs the folder of a run.")
    folder = Path(arguments.pop(place + 1))
    arguments.pop(place)

    import logging

    from sspir.training.fit import train
    from sspir.training.repeat import repetition
    from sspir.training.run import TRAIN_LOG, unwritable

    config = repetition(folder, arguments)
    try:
        Path(config.folder).mkdir(parents=True, exist_ok=True)
        handlers = (logging.StreamHandler(sys.stdout), logging.FileHandler(Path(config.folder, TRAIN_LOG)))
    except OSError as error:
        raise unwritable(Path(config.folder), error) from error
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        root.addHandler(handler)
    try:
        train(config, folder)
    except Exception as error:
        keep_in_log(error)
        raise
    finally:
        for handler in handlers:
            root.removeHandler(handler)
    return 0

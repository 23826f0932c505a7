"""`sspir train`: Hydra's command line around `sspir.training.fit.train`."""

import sys
from pathlib import Path
from typing import Any

from sspir.commands.hydra import hydra_command
from sspir.errors import UserError

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

    return hydra_command("train", "sspir.training.fit:train", with_swept(arguments))


def _repeat(arguments: list[str]) -> int:
    """Train the configuration that a run recorded, in another folder."""
    place = arguments.index("--from")
    if place + 1 == len(arguments):
        raise UserError("--from needs the folder of a run.")
    recorded = Path(arguments.pop(place + 1)) / "config.yaml"
    arguments.pop(place)
    if not recorded.is_file():
        raise UserError(f"There is no {recorded}; name the folder of a run.")

    import logging

    from omegaconf import OmegaConf

    from sspir.config.schema import TrainConfig
    from sspir.config.trust import check_places, check_record, read_record

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    record = read_record(recorded)
    check_record(record, recorded)
    check_places(record, recorded, arguments)
    config = OmegaConf.merge(OmegaConf.structured(TrainConfig), record)  # older records lack keys
    OmegaConf.set_struct(config, True)
    try:
        merged = OmegaConf.merge(config, OmegaConf.from_dotlist(_followed(arguments)))
    except Exception as error:
        raise UserError(" ".join(str(error).split())) from error
    if merged.folder == config.folder:
        raise UserError("Say where the repetition goes: folder=SOMEWHERE.")

    from sspir.training.fit import train

    train(OmegaConf.create(_moved(OmegaConf.to_container(merged), config.folder, merged.folder)), recorded.parent)
    return 0


def _followed(changes: list[str]) -> list[str]:
    """The changes, each also where the recorded, resolved configuration holds a copy of what it names."""
    from omegaconf import OmegaConf

    from sspir.config.compose import config_root

    shipped = OmegaConf.to_container(OmegaConf.load(config_root() / "conf" / "train.yaml"))
    assert isinstance(shipped, dict)
    copies = {"module.backbone.processor": "processor"} | {
        f"{part}.{name}": source[2:-1]
        for part in ("data", "module")
        for name, source in shipped[part].items()
        if str(source).startswith("${")
    }
    followed = []
    for change in changes:
        key, _, value = change.partition("=")
        places = [
            copy + key.removeprefix(source) for copy, source in copies.items() if f"{key}.".startswith(f"{source}.")
        ]
        followed += [change, *(f"{place}={value}" for place in places)]
    return followed


def _moved(node: Any, old: str, new: str) -> Any:
    """The same configuration with paths into the old run folder led into the new one."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    inside = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return new + node.removeprefix(old) if inside else node

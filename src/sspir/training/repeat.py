"""The configuration that a run was composed of, to be changed and trained again."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sspir.config.compose import choices, config_root
from sspir.config.schema import TrainConfig
from sspir.config.sentence import sentence
from sspir.config.trust import check_places, check_record, read_record
from sspir.errors import UserError
from sspir.moved import present_changes, with_references
from sspir.training.run import COMPOSED, CONFIG

log = logging.getLogger(__name__)


def repetition(folder: Path, changes: Sequence[str]) -> Any:
    """The configuration of a training that repeats a run.

    Args:
        folder: of the run.
        changes: "key=value" each; what refers to a key follows. One says where the repetition goes.

    Raises:
        UserError: there is no such run or setting, the record is not to be trusted, or no other folder is named.
    """
    path = next((folder / name for name in (COMPOSED, CONFIG) if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"There is no {folder / CONFIG}; name the folder of a run.")
    record: Any = OmegaConf.to_container(read_record(path, may_refer=path.name == COMPOSED))
    shipped: Any = OmegaConf.to_container(OmegaConf.load(config_root() / "conf" / "train.yaml"))
    if path.name == CONFIG:
        log.info("%s has no %s: what was computed from a setting that is changed may not follow.", folder, COMPOSED)
        try:
            record = with_references(record, shipped)
        except KeyError as error:
            raise UserError(f"{path} is no record of a training: it has no {error}; copy the run again.") from error
    known = {field.name for field in fields(TrainConfig)}
    try:
        config: Any = OmegaConf.merge(
            OmegaConf.structured(TrainConfig),
            {key: value for key, value in shipped.items() if key in known - record.keys()},  # younger than the record
            record,
        )
        OmegaConf.set_struct(config, True)
        recorded: Any = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        check_record(recorded, path)
        changed: Any = OmegaConf.merge(config, OmegaConf.from_dotlist(present_changes(changes, config)))
        moved: Any = OmegaConf.merge(config, {"folder": changed.folder})  # a place written out in full does not move
        moved = OmegaConf.create(OmegaConf.to_container(moved, resolve=True))
        check_places(moved, path, changes)
        if changed.folder == recorded.folder:
            raise UserError("Say where the repetition goes: folder=SOMEWHERE.")
    except UserError:
        raise
    except Exception as error:  # OmegaConf's
        raise UserError(sentence(error, choices)) from error
    return changed

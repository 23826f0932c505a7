"""The configuration that a run was composed of, to be changed and trained again."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sspir.config.compose import config_root
from sspir.config.schema import TrainConfig
from sspir.config.trust import check_places, check_record, read_record
from sspir.errors import UserError
from sspir.files import led
from sspir.moved import SETTINGS
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
    record, path = _read(folder)
    try:
        config: Any = OmegaConf.merge(OmegaConf.structured(TrainConfig), _younger(record), record)
        OmegaConf.set_struct(config, True)
        recorded: Any = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        check_record(recorded, path)
        check_places(recorded, path, changes)
        changed: Any = OmegaConf.merge(config, OmegaConf.from_dotlist([_present(change, config) for change in changes]))
        if changed.folder == recorded.folder:
            raise UserError("Say where the repetition goes: folder=SOMEWHERE.")
    except UserError:
        raise
    except Exception as error:  # OmegaConf's
        raise UserError(" ".join(str(error).split())) from error
    return changed


def _read(folder: Path) -> tuple[DictConfig, Path]:
    """The record with its references, and its file."""
    if (folder / COMPOSED).is_file():
        return read_record(folder / COMPOSED, may_refer=True), folder / COMPOSED
    if not (folder / CONFIG).is_file():
        raise UserError(f"There is no {folder / CONFIG}; name the folder of a run.")
    log.info("%s has no %s: where a setting was copied, only copies in data and module follow it.", folder, COMPOSED)
    return _with_references(read_record(folder / CONFIG)), folder / CONFIG


def _with_references(record: DictConfig) -> DictConfig:
    """A resolved record with the references of `conf/train.yaml` wherever it holds a copy, and of the run's folder."""
    whole: Any = led(OmegaConf.to_container(record), record.folder, "${folder}")
    for part in ("data", "module"):
        for name, source in OmegaConf.to_container(_shipped()[part]).items():  # type: ignore[union-attr]  # a mapping
            if str(source).startswith("${") and whole[part].get(name, ...) == _at(whole, source[2:-1]):
                whole[part][name] = source
    if whole["backbone"].get("processor") == whole["processor"]:
        whole["backbone"]["processor"] = "${processor}"
    return OmegaConf.create({**whole, "folder": record.folder})


def _at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _younger(record: DictConfig) -> DictConfig:
    """What `conf/train.yaml` says of settings that a record is older than."""
    known = (*record, "defaults", "hydra")
    return OmegaConf.masked_copy(_shipped(), [str(key) for key in _shipped() if key not in known])


def _shipped() -> DictConfig:
    return OmegaConf.load(config_root() / "conf" / "train.yaml")  # type: ignore[return-value]  # a mapping


def _present(change: str, config: DictConfig) -> str:
    """A change of a setting that is called otherwise now, under its new name."""
    key, equals, value = change.partition("=")
    if OmegaConf.select(config, SETTINGS.get(key, key)) is None:
        return change
    return f"{SETTINGS.get(key, key)}{equals}{value}"

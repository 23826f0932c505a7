"""What a training writes into its folder about itself: its configuration, and the environment that it ran in."""

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sspir.config.trust import composed, foresee_refusal
from sspir.data.manifest import Manifest, difference, passed
from sspir.files import write_text
from sspir.training.run import COMPOSED, CONFIG, ENVIRONMENT, environment, is_first_process, unwritable

log = logging.getLogger(__name__)


def write_record(folder: Path, config: DictConfig, manifest: Manifest, like: Path, goes_on: bool, **more: Any) -> None:
    """Write configuration, environment and more; warn, and keep what was there, where it goes on with other photos.

    Raises:
        UserError: the folder takes no files.
    """
    if not is_first_process():
        return
    before = recorded_environment(like).get("data")
    earlier = passed(recorded_environment(folder), manifest) if goes_on else []
    if before and (words := difference(before, manifest)):
        log.warning("The photos are not those that %s was trained on: %s; it will come out differently.", like, words)
    try:
        write_text(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))
        foresee_refusal(config, folder / CONFIG)
        write_text(folder / COMPOSED, OmegaConf.to_yaml(composed(config)))
        note(folder, **environment(), data=manifest, data_before=earlier, **more)
    except OSError as error:
        raise unwritable(folder, error) from error


def recorded_environment(folder: Path) -> dict[str, Any]:
    """The record of a run's environment, {} where there is none."""
    path = folder / ENVIRONMENT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def note(folder: Path, **facts: Any) -> None:
    """Add facts to a run's record of its environment, of which it keeps what is not told anew."""
    if is_first_process():
        write_text(folder / ENVIRONMENT, json.dumps({**recorded_environment(folder), **facts}, indent=2) + "\n")

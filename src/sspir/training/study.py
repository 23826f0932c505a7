"""The study of a search: Optuna's own, in an SQLite file."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sspir.errors import UserError

log = logging.getLogger(__name__)

DATABASE = "study.db"
# What is noted with a study and its trials
OBJECTIVES, SETTINGS = "objectives", "settings"
FOLDER, REASON = "folder", "reason"  # of the trial's run, from the study's folder; why it failed or was pruned


def optuna() -> Any:
    """Optuna, with no other words than warnings.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna as package
    except ImportError as error:
        raise UserError("A search and its report need Optuna: pip install 'sspir[search]'.") from error
    package.logging.set_verbosity(package.logging.WARNING)
    warnings.filterwarnings("ignore", category=package.exceptions.ExperimentalWarning)
    return package


def begin_study(
    folder: Path, name: str, objectives: Mapping[str, str], space: Mapping[str, Any], settings: Sequence[str]
) -> Any:
    """Open a study, making it where there is none.

    Args:
        folder: of the study, which is there.
        name: of the study.
        objectives: metric -> "max" or "min".
        space: setting -> Optuna's distribution.
        settings: overrides that are the same in all trials.

    Raises:
        UserError: the study was begun with other objectives, or with other values of a setting.
    """
    package = optuna()
    directions = [f"{end}imize" for end in objectives.values()]
    study = package.create_study(storage=_storage(folder), study_name=name, directions=directions, load_if_exists=True)
    before = study.user_attrs.get(OBJECTIVES)
    if before is None:
        study.set_user_attr(OBJECTIVES, dict(objectives))
        study.set_user_attr(SETTINGS, sorted(settings))
    elif list(before.items()) != list(objectives.items()):
        raise _another(folder, name, f"the objectives {', '.join(before)}", ", ".join(objectives))
    elif changed := set(settings) ^ set(study.user_attrs[SETTINGS]):
        log.warning(
            "The study %s was begun with other settings (%s): what its trials have come to may not compare.",
            name, ", ".join(sorted(changed)),
        )  # fmt: skip
    for trial in study.trials:
        for key, distribution in trial.distributions.items():
            if key in space and not _alike(distribution, space[key]):
                raise _another(folder, name, f"{key} in {distribution}", f"in {space[key]}")
    return study


def load_studies(folder: Path) -> list[Any]:
    """All studies in a folder, by name.

    Raises:
        UserError: Optuna is not installed, or the file cannot be read.
    """
    package = optuna()
    try:
        storage = _storage(folder)
        names = package.get_all_study_names(storage)
        return [package.load_study(study_name=name, storage=storage) for name in names]
    except Exception as error:  # SQLAlchemy's and Optuna's
        raise UserError(f"The study {folder / DATABASE} cannot be read ({' '.join(str(error).split())}).") from error


def load_study(folder: Path, name: str, pruner: Any = None) -> Any:
    """A study that was begun."""
    return optuna().load_study(study_name=name, storage=_storage(folder), pruner=pruner)


def _storage(folder: Path) -> Any:
    package = optuna()
    from sqlalchemy.engine import URL  # comes with it

    place = URL.create("sqlite", database=str(folder.absolute() / DATABASE)).render_as_string()  # may hold a "?"
    wait = {"connect_args": {"timeout": 60}}  # seconds, for other jobs that write
    return package.storages.RDBStorage(place, engine_kwargs=wait)


def _alike(first: Any, second: Any) -> bool:
    """Whether Optuna takes two distributions in one study."""
    try:
        optuna().distributions.check_distribution_compatibility(first, second)
    except ValueError:
        return False
    return True


def _another(folder: Path, name: str, before: str, now: str) -> UserError:
    return UserError(
        f"The study {name} in {folder} was begun with {before}, now it is {now}; name this one by "
        f"hydra.sweeper.study=NAME."
    )

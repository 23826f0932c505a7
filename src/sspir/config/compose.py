"""Configurations are composed of the files in `conf/` and `experiments/`, sspir's and people's own."""

import errno
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sspir.config import outside
from sspir.config.build import refusal
from sspir.config.schema import EvaluateConfig, SearchConfig, TrainConfig
from sspir.config.sentence import sentence, unknown
from sspir.config.sweep import ablated, swept
from sspir.errors import UserError
from sspir.files import is_full
from sspir.moved import named, present_config, present_overrides, renamed

log = logging.getLogger(__name__)
_SCHEMAS = {"train": TrainConfig, "evaluate": EvaluateConfig}
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)


def config_root() -> Path:
    """The folder that holds `conf/` and `experiments/`: the package's own, or the checkout's."""
    package = Path(__file__).parents[1]
    return package if (package / "conf").is_dir() else package.parents[1]


class OwnConfigurations(SearchPathPlugin):
    """Lets Hydra look for every group in users' own folders first: in FOLDER/conf, for experiments in FOLDER."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folders before `conf/`."""
        for place in _places(outside.folders()):
            search_path.prepend(outside.VARIABLE, f"file://{place}", anchor="main")


def _places(folders: Sequence[Path]) -> list[Path]:
    """The folders that hold groups of configurations, in the order in which a group is looked for."""
    return [place for folder in folders for place in (folder / "conf", folder) if place.is_dir()]


def register() -> None:
    """Tell Hydra about the schemas, the resolvers and people's own folders. Calling it twice does no harm.

    `${repo:}` is the folder of `conf/`, `${absolute:PATH}` a path from the root and `${ends:PATH}` its last two parts,
    `${swept:}` what a sweep varies, `${evaluations:RUN}` the folder of a run's evaluations, `${evaluation:}` checkpoint
    and settings of one in words, and `${of_scale:SCALE,GIVEN}` the only scale that a degradation's numbers are for,
    where no other is given.
    """
    outside.activate()
    store = ConfigStore.instance()
    for name, schema in _SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    store.store(group="hydra/sweeper", name="optuna_schema", node=SearchConfig)
    OmegaConf.register_new_resolver("repo", lambda: str(config_root()), replace=True)
    OmegaConf.register_new_resolver("swept", swept, replace=True)
    OmegaConf.register_new_resolver("ablated", ablated, replace=True)
    OmegaConf.register_new_resolver("absolute", lambda path: str(Path(path).absolute()), replace=True)
    OmegaConf.register_new_resolver("ends", lambda path: "/".join(Path(path).absolute().parts[-2:]), replace=True)
    OmegaConf.register_new_resolver("evaluation", _evaluation, replace=True)
    OmegaConf.register_new_resolver("evaluations", _evaluations, replace=True)
    OmegaConf.register_new_resolver("of_scale", _of_scale, replace=True)
    Plugins.instance().register(OwnConfigurations)


def _evaluation(_root_: DictConfig) -> str:
    from sspir.config.naming import folder_name  # which composes the default evaluation

    return folder_name(_root_)


def _evaluations(run: str) -> str:
    own = any(Path(run, name).is_file() for name in ("config.yaml", "model_index.json"))  # a run, or a saved pipeline
    comes_along = Path(run).parts[:1] == ("shipped",) and not own
    return f"evaluation/{run}" if comes_along else f"{run}/evaluation"


def _of_scale(scale: int, given: int) -> int:
    if given != scale:
        raise UserError(f"The degradation's numbers are those of scale {scale}, not {given}; choose another one.")
    return scale


def choices(group: str) -> list[str]:
    """The choices of a group, such as "captioner" or "experiments": sspir's and people's own."""
    return sorted(
        {path.stem for place in _places([*outside.folders(), config_root()]) for path in (place / group).glob("*.yaml")}
    )


def told(error: Exception) -> UserError | None:
    """The `UserError` in an error, where there is one: our own, or one with Hydra's or the disk's words; else None."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, YAMLError | OmegaConfBaseException):
        return UserError(sentence(error, choices))
    if isinstance(error, OSError) and is_full(error):
        return UserError(f"{error.filename or 'The disk'}: {error.strerror}; make room there.")
    if isinstance(error, OSError) and error.filename and error.errno in _IN_THE_WAY:
        return UserError(f"{error.filename}: {error.strerror}; name another, or mend this one.")
    if not isinstance(error, HydraException):
        return None
    if isinstance(error, InstantiationException):
        return refusal(error)
    return error.__cause__ if isinstance(error.__cause__, UserError) else None


def require_choices(overrides: Sequence[str]) -> None:
    """Refuse a number, or null, as the choice of a group, over which Hydra stumbles.

    Raises:
        UserError: there is such a one.
    """
    values = r"(-?\d+(?:\.\d*)?(?:e-?\d+)?|true|false|null)"
    for override in overrides:
        given = re.fullmatch(rf"\+?([\w/]+)(?:@[\w.]+)?={values}", override, re.IGNORECASE)
        if given and (there := choices(given[1])):
            default = ", or leave it out for the default" if given[2].lower() == "null" else ""
            raise UserError(f"There is no {given[1]} {given[2]}; choose one of {', '.join(there)}{default}.")


def load_choice(group: str, name: str) -> DictConfig:
    """The configuration that a command's flag names.

    Args:
        group: folder of `conf/`.
        name: of a choice of the group, or the path of a YAML file.

    Raises:
        UserError: there is no such choice or file, or the file has a defaults list.
    """
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        choice: DictConfig = OmegaConf.load(name)  # type: ignore[assignment]  # a choice is a mapping
        if "defaults" in choice:
            raise UserError(
                f"{name} has a defaults list, which is read in a folder of choices alone; move it to "
                f"DIR/conf/{group}/ and give --path DIR, and its name without .yaml."
            )
        return modern(choice)
    if name not in (known := choices(group)):
        raise UserError(f"There is no {group} {name}; choose one of {', '.join(known)}, or give a .yaml file.")
    return compose_config(f"{group}/{name}")[group]


def modern(config: DictConfig) -> DictConfig:
    """A configuration, which may have settings of before, with today's settings; one of today is itself returned."""
    plain: Any = OmegaConf.to_container(config)
    if (present := named(present_config(plain), _renamed)) == plain:
        return config
    made = OmegaConf.create(present)
    OmegaConf.set_struct(made, True)
    return made


def known(name: str, config: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """A configuration of "train" or "evaluate" that has no settings of its own at the top but those that others name.

    Hydra takes anything behind a plus, and advises it where a setting is misspelt. What a sweep varies is known.

    Args:
        name: of the configuration.
        config: itself.
        overrides: of Hydra's own settings, which may name some, too.

    Raises:
        UserError: nothing reads a setting.
    """
    if name not in _SCHEMAS:
        return config
    settings = [setting.name for setting in fields(_SCHEMAS[name])]
    references = re.findall(r"\$\{[^}]*", " ".join((OmegaConf.to_yaml(config), *overrides)))
    words = {*re.findall(r"\w+", " ".join(references)), *config.get("sweep", ())}
    for key in map(str, config):
        if key not in settings and key not in words:
            raise UserError(unknown(key, settings))
    return config


@cache
def _renamed(target: str) -> str:
    """The new name of a `_target_`; an old one is told, once."""
    if (new := renamed(target)) != target:
        log.warning("The _target_ %s is now %s: write that, as the old name goes in version 0.3.", target, new)
    return new


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration, as the command line does, for notebooks and tests.

    Args:
        name: "train", "evaluate", or a file below `conf/`.
        overrides: Hydra's, such as "experiments=tiny".

    Raises:
        UserError: a key, a choice or a value is not known.
    """
    with _hydra(overrides) as present:
        return known(name, modern(compose(name, overrides=present)), overrides)


def varied_by_file(overrides: Sequence[str]) -> list[str]:
    """What an experiment's file varies, its `hydra.sweeper.params`, as overrides.

    Args:
        overrides: of a training, of which some may vary.

    Raises:
        UserError: a key, a choice or a value is not known, or an override adds to what no file varies.
    """
    with _hydra(overrides) as present:
        try:
            config = GlobalHydra.instance().config_loader().load_configuration("train", present, RunMode.MULTIRUN)
        except (AssertionError, AttributeError) as error:  # OmegaConf's, of a key in a mapping that is null
            raise UserError(
                "hydra.sweeper.params is null, to which a command line adds nothing: vary a setting by KEY=A,B, or "
                "write hydra.sweeper.params in an experiment's file."
            ) from error
    return [f"{key}={value}" for key, value in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items()]


@contextmanager
def _hydra(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Hydra, ready to compose, and the overrides by today's names; what it has against them is a `UserError`."""
    register()
    require_choices(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_root() / "conf"), version_base="1.3"):
        try:
            yield list(present_overrides(overrides))
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            raise UserError(sentence(error, choices)) from error

"""Commands that take Hydra overrides."""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sspir.commands.stop import Stop
from sspir.config import outside
from sspir.config.build import refusal
from sspir.config.compose import (
    choices,
    compose_config,
    config_root,
    known,
    modern,
    register,
    require_choices,
    told,
)
from sspir.config.sentence import sentence, ungiven
from sspir.config.sweep import varied
from sspir.errors import NotApplicableError, UserError
from sspir.moved import present_overrides
from sspir.numbers import counted

log = logging.getLogger(__name__)


def hydra_command(config_name: str, function: str, arguments: list[str]) -> int:
    """Run a function on a composed configuration under Hydra, also as a multirun.

    A job that fails stops no other job, and a job whose model refuses its configuration by design is skipped.

    Args:
        config_name: primary configuration in `conf/`.
        function: "module:name", imported once the configuration is sound.
        arguments: Hydra's: overrides and flags.

    Returns:
        0, the exit status.

    Raises:
        UserError: the configuration is not sound, or the function says so; of a multirun, with a line for each of the
            jobs that failed and each reason.
    """
    register()
    require_choices(arguments)
    if _shows_job(arguments):
        return _show(config_name, arguments)
    module, _, name = function.partition(":")
    process, failed = os.getpid(), list[str]()

    @hydra.main(version_base="1.3", config_path=str(config_root() / "conf"), config_name=config_name)
    def task(config: DictConfig) -> Any:
        outside.activate()  # a launcher may have moved us to another process
        of_launcher = os.getpid() != process
        try:
            with Stop.in_process() if of_launcher else nullcontext():
                return _call(module, name, known(config_name, modern(config), HydraConfig.get().overrides.hydra))
        except Exception as error:
            _raise_interrupt(error)
            if isinstance(error, NotApplicableError) and HydraConfig.get().mode is RunMode.MULTIRUN:
                log.warning("Passed over: %s", _sentence(error, arguments))
                return None
            keep_in_log(error)
            if not isinstance(error, UserError):
                raise
            if of_launcher:  # which passes exceptions to the process that started it
                raise
            failed.append(_sentence(error, arguments))  # Hydra would put a line of its own before it
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                sys.stderr.write(f"Failed: {failed[-1]}\n")  # the end of all jobs may be days away
            return None

    if os.environ.get("RANK", "0") != "0":  # of torchrun: the first rank's log is the record
        arguments = [*arguments, "hydra/job_logging=disabled"]
    before, sys.argv = sys.argv, [f"sspir {config_name}", *present_overrides(arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # leave errors to us: Hydra would print them and exit
    try:
        with Stop.passed_on(arguments):
            task()
    except (HydraException, OmegaConfBaseException) as error:
        _raise_interrupt(error)
        raise UserError(sentence(error, choices)) from error
    except (FileExistsError, NotADirectoryError) as error:  # of Hydra, which makes the folder
        raise UserError(f"{error.filename} cannot be made, as a file is in its place; name another folder.") from error
    finally:
        sys.argv = before
    if len(failed) > 1:
        count = Counter(failed)
        lines = (f"  {told}" + (f" ({count[told]} times)" if count[told] > 1 else "") for told in count)
        raise UserError("\n".join([f"{counted(len(failed), 'run')} failed:", *lines]))
    if failed:
        raise UserError(failed[0])
    return 0


def _raise_interrupt(error: BaseException) -> None:
    """Raise the Ctrl-C that OmegaConf was making a configuration at: it stumbles in cleaning up, and raises that."""
    at: BaseException | None = error
    while isinstance(at, OmegaConfBaseException | AttributeError):
        at = at.__context__
    if isinstance(at, KeyboardInterrupt):
        raise at


def _shows_job(arguments: list[str]) -> bool:
    """Whether `--cfg job`, maybe with `--resolve`, is the only flag; Hydra would show it before settings are moved."""
    flags = " ".join(text for text in arguments if text.startswith("-") or text == "job")
    return re.fullmatch(r"(--resolve )?(--cfg|-c)[ =]job( --resolve)?", flags) is not None


def _show(config_name: str, arguments: list[str]) -> int:
    """Print the configuration that a command would run with; returns 0."""
    overrides = [text for text in arguments if not text.startswith("-") and text != "job"]
    sys.stdout.write(OmegaConf.to_yaml(compose_config(config_name, overrides), resolve="--resolve" in arguments))
    return 0


def _call(module: str, name: str, config: DictConfig) -> Any:
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(ungiven(missing))
    try:
        return getattr(import_module(module), name)(config)
    except InstantiationException as error:  # of a constructor that Hydra called
        raise refusal(error) from error


def keep_in_log(error: Exception) -> None:
    """Write an error into the job's log file; the terminal is told by whoever catches it."""
    foreseen = told(error)
    trace = None if foreseen else (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, str(foreseen or error), (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _sentence(error: UserError, given: Sequence[str]) -> str:
    """The error's sentence; in a multirun what it varies comes first."""
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        return str(error)
    words = " ".join(varied(given))
    return f"{words}: {error}" if words else str(error)

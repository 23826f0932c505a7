"""Ctrl-C while OmegaConf makes a configuration, which raises an error of its own instead."""

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sspir.__main__ import main
from sspir.commands import train


def create_interrupted() -> None:
    """As a signal's handler does, raise KeyboardInterrupt between two calls deep in OmegaConf.create."""

    def interrupt(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_validate_and_convert_impl":
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        OmegaConf.create({"parts": {"operations": [{"scale": 4}]}})
    finally:
        sys.setprofile(None)


def task(config: DictConfig) -> None:
    create_interrupted()


@pytest.mark.thorough
def test_it_is_told_as_such_and_not_as_a_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(OmegaConfBaseException):  # what OmegaConf makes of it
        create_interrupted()
    monkeypatch.chdir(tmp_path)
    run = train.hydra_command
    monkeypatch.setattr(train, "hydra_command", lambda name, _, given: run(name, f"{__name__}:task", given))
    assert main(["train", "experiments=tiny"]) == 130
    assert capsys.readouterr().err.endswith("sspir train: stopped by Ctrl-C.\n")

"""Old names lead to what there is now, and stand in the way of no new one."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sspir
from sspir.moved import MODULES, NAMES, ROOMS, old_name

ROOT = Path(sspir.__file__).parent


def test_every_old_name_leads_somewhere() -> None:
    for new in (*MODULES.values(), *ROOMS.values()):
        import_module(f"sspir.{new}")
    for old, new in NAMES.items():
        module, _, name = old.rpartition(".")
        place, _, attribute = new.rpartition(".")
        with pytest.warns(DeprecationWarning, match=f"sspir.{old} is now sspir.{new};"):
            found = getattr(import_module(f"sspir.{module}"), name)
        assert found is getattr(import_module(f"sspir.{place}"), attribute)


def test_a_room_that_was_a_module_hands_out_its_own_modules() -> None:
    for room in ROOMS:
        for path in (ROOT / room).glob("[a-z]*.py"):
            with pytest.raises(AttributeError):
                old_name(f"sspir.{room}", path.stem)


def test_a_module_of_such_a_room_may_come_first() -> None:
    code = "import sspir.config.build; from sspir.config import outside"
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_old_module_is_found_below_its_package() -> None:
    import_module("sspir.pipeline")
    import_module("sspir.priors.text_encoder")
    with pytest.warns(DeprecationWarning, match=r"sspir\.pipeline\.RestorationPipeline is now sspir\.sampling"):
        assert sspir.pipeline.RestorationPipeline is sspir.RestorationPipeline
    assert sspir.priors.text_encoder.TextEncoder is import_module("sspir.encoders").TextEncoder
    assert callable(sspir.train)  # which was a module of that name too

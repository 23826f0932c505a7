"""What a configuration names and cannot be made; and what fails later, which keeps its traceback."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from sspir.__main__ import main
from sspir.commands.hydra import hydra_command
from sspir.config.build import build, build_all
from sspir.degradation import Operation
from sspir.errors import UserError
from tests.pipelines import write_photo
from tests.runs import OVERRIDES, roots

FRACTION = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}
CROP = {"_target_": "sspir.data.Crop", "size": 0}


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (
            {"outer": {"_target_": "builtins.dict", "inner": FRACTION}},
            "outer.inner (fractions.Fraction) cannot be made",
        ),
        (FRACTION, "fractions.Fraction cannot be made: Fraction(1, 0)"),
        ({"crop": CROP}, "crop: Crop.size is 0: give the side of the patch"),
        ({"part": {"_target_": "sspir.data.Nothing"}}, "sspir.data.Nothing, the _target_ of part, cannot be imported"),
        (
            {"part": {"_target_": "sspir.data.Crops"}},
            "cannot be imported: the module sspir.data has no Crops, but Crop.",
        ),
        ({"part": CROP | {"sise": 3}}, "part (sspir.data.crop.Crop) cannot be made: Crop.__init__() got an unexpected"),
    ],
)
def test_a_constructor_that_refuses_is_one_sentence_with_its_key(node: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        build(OmegaConf.create(node))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@dataclass
class Fade(Operation):
    """A dataclass, which Hydra would take for a configuration."""

    amount: float


@dataclass
class Tell(pl.Callback):
    """Another."""

    word: str


def test_dataclasses_are_objects_like_others() -> None:
    operations = [{"_target_": "tests.config.test_build.Fade", "amount": 0.5}]
    built = build(OmegaConf.create({"_target_": "sspir.degradation.Chain", "operations": operations}))
    assert built.leaves() == [Fade(0.5)]
    quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer", **quiet}}).trainer
    assert Tell("a") in build(trainer, callbacks=[Tell("a")]).callbacks


def test_what_is_no_callback_is_named() -> None:
    nodes = {
        "none": None,
        "tell": {"_target_": "tests.config.test_build.Tell", "word": "a"},
        "crop": CROP | {"size": 8},
    }
    with pytest.raises(UserError, match=r"^callbacks\.crop is a Crop, and no Callback of Lightning\.$"):
        build_all("callbacks", OmegaConf.create({"callbacks": nodes}), pl.Callback)
    del nodes["crop"]
    assert build_all("callbacks", OmegaConf.create({"callbacks": nodes}), pl.Callback) == [Tell("a")]


def test_a_library_s_refusal_names_the_key_of_a_run(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    places = roots(photo_folder)
    assert main(["train", *OVERRIDES, *places, "trainer.max_epochs=-7"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("sspir train: trainer (pytorch_lightning.")
    assert "cannot be made: " in told
    assert "-7" in told


def test_a_flag_s_file_is_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = write_photo(tmp_path / "a.png", 8, 8)
    (tmp_path / "bad.yaml").write_text("_target_: sspir.captioners.NoCaption\nwords: 3\n")
    flags = ["--captioner", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "out")]
    assert main(["restore", str(photo), *flags]) == 2
    assert "sspir.captioners.base.NoCaption cannot be made: " in capsys.readouterr().err


def broken(config: DictConfig) -> None:
    raise ZeroDivisionError(config.name)


def test_a_fault_in_the_work_itself_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        hydra_command("train", f"{__name__}:broken", ["experiments=tiny"])

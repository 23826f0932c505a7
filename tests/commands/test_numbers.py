"""Every number on the command line, and the same ones of a pipeline's call: refused where they come in."""

from collections.abc import Sequence
from typing import Any

import pytest

from sspir.__main__ import main
from sspir.errors import UserError
from tests.pipelines import photo, tiny_pipeline

RESTORE = ("restore", "a.png", "--out", "out")
DEGRADE = ("degrade", "a.png", "--preset", "light", "--out", "out")
COMPARE = ("compare", "--method", "a=a", "--out", "out")
FLAGS: list[tuple[Sequence[str], str, Sequence[str]]] = [
    (RESTORE, "--seed", ("18446744073709551616", "-1", "1.5", "one")),
    (RESTORE, "--scale", ("0", "-2", "nan", "inf", "1e999")),
    (RESTORE, "--fidelity", ("nan", "1.01")),
    (RESTORE, "--steps", ("0", "1001")),
    (RESTORE, "--guidance", ("nan", "inf", "much")),
    (RESTORE, "--start", ("0", "nan", "1000")),
    (RESTORE, "--tile", ("0", "1e9")),
    (RESTORE, "--colour", ("adain:nan", "adain:much")),
    (RESTORE, "--samples", ("0", "4294967296")),
    (RESTORE, "--batch", ("0",)),
    (RESTORE, "--max-pixels", ("0", "0.5")),
    (DEGRADE, "--seed", ("18446744073709551616", "-1")),
    (DEGRADE, "--scale", ("0", "-2")),
    (DEGRADE, "--count", ("0",)),
    (DEGRADE, "--crop", ("-8",)),
    (COMPARE, "--seed", ("18446744073709551616", "-1")),
    (COMPARE, "--workers", ("0",)),
    (("caption", "folder"), "--steps", ("0",)),
    (("caption", "folder"), "--batch", ("0",)),
    (("caption", "folder"), "--max-pixels", ("-1",)),
    (("report", "folder"), "--images", ("-1",)),
    (("report", "folder"), "--quality", ("0", "101")),
    (("pack", "folder", "--out", "out"), "--shard-mb", ("0", "nan", "inf")),
    (("demo",), "--count", ("0",)),
]


@pytest.mark.parametrize(
    ("command", "flag", "value"), [(command, flag, value) for command, flag, values in FLAGS for value in values]
)
def test_a_number_out_of_range_is_one_sentence_that_names_the_flag(
    command: Sequence[str], flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, f"{flag}={value}"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"sspir {command[0]}: argument {flag}: ")
    assert repr(value.removeprefix("adain:")) in sentence


@pytest.mark.parametrize(
    "setting",
    [{"seed": 2**64}, {"seed": -1}, {"seed": 1.5}, {"seed": [0.5]}, {"batch": 0}, {"steps": 1001}, {"guidance": 1e999}],
)
def test_a_pipeline_is_as_strict(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        tiny_pipeline()(photo(8, 8), "a", **setting)

"""Which photos are meant, and what their results are called."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from sspir.errors import UserError
from sspir.restoring.jobs import find_jobs


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def outputs(*inputs: str, form: str | None = None, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    return {job.source.as_posix(): job.output for job in find_jobs(inputs, Path("out"), form, known)}


def test_photos_that_differ_in_the_suffix_only_are_kept_apart(place: Path) -> None:
    touch("in/a.jpg", "in/a.png", "in/a.tif", "in/b.jpg")
    names = {"in/a.jpg": "a.png", "in/a.png": "a.png.png", "in/a.tif": "a.tif.png", "in/b.jpg": "b.png"}
    assert outputs("in") == names
    assert outputs("in", "in/a.png", "./in/../in", str(place / "in" / "b.jpg")) == names  # each once
    assert outputs("in/a.png", "in/a.jpg") == {"in/a.png": "a.png", "in/a.jpg": "a.jpg.png"}  # the first is first
    assert outputs("in", form="same")["in/a.tif"] == "a.tif"


def test_a_photo_whose_first_name_is_taken_has_its_second(place: Path) -> None:
    touch("in/a.jpeg", "in/a.jpg", "in/a.jpg.webp")
    assert outputs("in") == {"in/a.jpeg": "a.png", "in/a.jpg": "a.jpg.png", "in/a.jpg.webp": "a.jpg.webp.png"}


def test_a_result_stays_with_its_photo(place: Path) -> None:
    touch("in/a.jpg", "in/a.png")
    before = {"a.png": "in/a.png"}
    assert outputs("in", known=before) == {"in/a.jpg": "a.jpg.png", "in/a.png": "a.png"}
    assert outputs("in/a.jpg", known=before) == {"in/a.jpg": "a.jpg.png"}  # though the other is not asked for
    assert outputs("in", known={"a.png": "/elsewhere/a.png"})["in/a.png"] == "a.png"  # from another current folder
    both = {"a.png": "in/a.jpg", "a.png.png": "in/a.png"}
    Path("in/a.jpg").unlink()
    assert outputs("in", known=both) == {"in/a.png": "a.png.png"}
    assert outputs("in", known={"a.png": "in/a.jpg"}) == {"in/a.png": "a.png"}  # it is gone


def test_one_name_in_two_folders_is_refused(place: Path) -> None:
    touch("in/a.jpg", "other/a.jpg")
    with pytest.raises(UserError, match=r"in/a\.jpg and .*other/a\.jpg would both be written to a\.png"):
        outputs("in", "other")


def test_a_pattern_that_names_a_suffix_means_it(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch("in/a.gif", "in/b.png")
    assert outputs("in/*.gif") == {"in/a.gif": "a.png"}
    assert not caplog.messages
    assert outputs("in/*") == {"in/b.png": "b.png"}
    assert "in/*: 1 .gif left out" in caplog.messages[0]

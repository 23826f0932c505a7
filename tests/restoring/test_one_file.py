"""One photo to a file of a given name."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sspir.__main__ import main
from tests.pipelines import write_photo


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two photos and a picture of somebody's."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/b.png", "mine.png"):
        write_photo(tmp_path / name, 8, 8)
    return tmp_path


def restore(weights: Path, *arguments: str) -> int:
    return main(["restore", *arguments, "--weights", str(weights), "--steps", "1", "--captioner", "none"])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_the_result_is_the_file_and_all_else_stands_beside_it(
    place: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["in/a.png", "--out", "new/b.jpg", "--compare", "--samples", "2"]
    assert restore(weights, *command) == 0
    beside = {"b.compare.png", "b.sample2.jpg", "b.mean.jpg", "b.trust.png", "b.spread.npy", "restore.jsonl"}
    assert files(place / "new") == {"b.jpg", *beside}
    with Image.open("new/b.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))
    told = [json.loads(line) for line in (place / "new" / "restore.jsonl").read_text().splitlines()]
    assert [(line["output"], line["status"]) for line in told] == [("b.jpg", "begun"), ("b.jpg", "done")]
    assert restore(weights, *command) == 0
    assert "0 restored, 1 were done before" in capsys.readouterr().out
    before = (place / "new" / "b.jpg").read_bytes()
    assert restore(weights, "in/b.png", "--out", "new/b.jpg") == 2
    assert f"new/b.jpg is the result of {place}/in/a.png, not of in/b.png; choose another" in capsys.readouterr().err
    assert (place / "new" / "b.jpg").read_bytes() == before
    assert restore(weights, "in/b.png", "--out", "new/b.jpg", "--overwrite") == 0
    assert restore(weights, "in/b.png", "--out", "new/b.jpg", "--steps", "2") == 0  # its own result may be replaced
    assert "1 restored" in capsys.readouterr().out


def test_in_the_current_folder_only_own_results_are_replaced(
    place: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore(weights, "in/a.png", "--out", "one.webp") == 0
    before = (place / "mine.png").read_bytes()
    assert restore(weights, "in/a.png", "--out", "mine.png") == 2
    assert "mine.png exists and was not written" in capsys.readouterr().err
    assert (place / "mine.png").read_bytes() == before
    assert files(place) == {"one.webp", "mine.png", "restore.jsonl"}


def test_a_folder_of_that_name_stays_one(place: Path, weights: Path) -> None:
    (place / "there.png").mkdir()
    assert restore(weights, "in/a.png", "--out", "there.png") == 0
    assert files(place / "there.png") == {"a.png", "restore.jsonl"}


@pytest.mark.parametrize("form", ["jpg", "same"])
def test_a_format_that_agrees_is_no_contradiction(place: Path, weights: Path, form: str) -> None:
    (place / "in" / "a.png").rename(place / "in" / "a.jpg")
    assert restore(weights, "in/a.jpg", "--out", "b.JPEG", "--format", form) == 0
    with Image.open("b.JPEG") as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in", "--out", "new.png"], "is one picture, but there are 2 photos"),
        (["in/a.png", "in/b.png", "--out", "new.png"], "is one picture, but there are 2 photos"),
        (["in/*.jpg", "--out", "new.png"], "is one picture, but there are 0 photos"),
        (["in/a.png", "--out", "new.png", "--format", "jpg"], "do not agree"),
        (["in/a.png", "--out", "in/a.png", "--overwrite"], "itself a photo"),
    ],
)
def test_what_is_no_file_is_one_sentence_and_leaves_nothing(
    place: Path, weights: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert restore(weights, *arguments) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert words in sentence
    assert sorted(place.rglob("*")) == before

"""`sspir caption`: every photo once, whatever happens, and people's words above all."""

import json
import random
import signal
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from sspir.__main__ import main
from sspir.captioners.base import Captioner, CaptionError, CaptionerUnavailableError, Images, NoCaption
from sspir.captioners.tables import find_captions
from sspir.commands.caption import _value
from sspir.files import alone_in, alone_with
from sspir.images.io import read_image
from tests.pipelines import describe, tiny_pipeline, write_photo
from tests.processes import start, wait_until


class Picky(Captioner):
    """Says the size; refuses square photos, and gives up altogether at very wide ones.

    What it worked on when it refused must be gone from memory when it is asked again.
    """

    worked_on: ClassVar[list[weakref.ref]] = []

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        assert not [work for work in self.worked_on if work() is not None]
        work = torch.zeros(1)
        self.worked_on.append(weakref.ref(work))
        for image in images:
            if image.shape[1] == image.shape[2]:
                raise CaptionError("square photos are refused.")
            if image.shape[2] > 100:
                raise CaptionerUnavailableError("The server is gone.")
        return [f"{image.shape[2]} x {image.shape[1]}" for image in images]


def photos(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, (height, width) in enumerate(sizes):
        write_photo(folder / f"{index}.png", height, width, seed=index)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def caption(folder: Path, *flags: str, captioner: str = "measured") -> int:
    return main(["caption", str(folder), "--captioner", captioner, *flags])


@pytest.fixture
def picky(tmp_path: Path) -> str:
    file = tmp_path / "picky.yaml"
    file.write_text("_target_: tests.commands.test_caption.Picky\n")
    return str(file)


def test_every_photo_below_gets_a_line_with_its_provenance(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    photos(folder / "deeper", (20, 24))
    assert caption(folder) == 0
    found = {row["file_name"]: row for row in rows(folder)}
    assert found.keys() == {"0.png", "1.png", "deeper/0.png"}
    for name, row in found.items():
        assert row["caption"] == describe(read_image(folder / name).tensor())
        assert (row["captioner"], row["shown"]) == ("MeasuredCaptioner", "lq")
        assert row["time"].startswith("20")
    find = find_captions(folder / "captions.jsonl")
    assert find(folder / "0.png", "0.png") == found["0.png"]["caption"]
    assert not list(folder.rglob("*.txt"))


def test_done_photos_are_skipped_and_new_ones_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "in", (24, 20))
    caption(folder)
    first = (folder / "captions.jsonl").read_text()
    photos(folder, (24, 20), (9, 30))
    with alone_with(folder / "captions.jsonl"):
        assert caption(folder) == 2
        assert f"Another process writes into {folder}/captions.jsonl; let it finish" in capsys.readouterr().err
        assert caption(folder, "--out", str(folder / "others.jsonl")) == 0  # a table of its own is nobody's concern
    capsys.readouterr()
    assert caption(folder) == 0
    assert "1 captioned, 1 had a caption, 0 failed" in capsys.readouterr().out
    assert (folder / "captions.jsonl").read_text().startswith(first)
    assert len(rows(folder)) == 2


def test_other_settings_and_empty_answers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    assert caption(folder, captioner="none") == 0
    told = capsys.readouterr()
    assert f"no text: the captioner answered 2 photos, such as {folder}/0.png, with nothing." in told.err
    before = rows(folder)
    assert caption(folder) == 0
    told = capsys.readouterr().err
    assert "The caption of 2 photos, such as " in told
    assert "was made by another captioner or under other settings; --overwrite makes such captions anew" in told
    assert rows(folder) == before
    assert caption(folder, "--overwrite") == 0
    assert caption(folder) == 0
    told = capsys.readouterr().err
    assert "no text" not in told
    assert "--overwrite" not in told


def test_what_a_person_edits_stays(tmp_path: Path, picky: str) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30), (9, 31), (9, 32))
    (folder / "3.txt").write_text("written before\n")
    assert caption(folder, "--beside", captioner=picky) == 0
    assert (folder / "0.txt").read_text() == "20 x 24\n"
    table = folder / "captions.jsonl"
    table.write_text(table.read_text().replace("20 x 24", "my own words").rstrip("\n"))  # as some editors leave it
    (folder / "1.txt").write_text('my "other" words')
    (folder / "2.txt").unlink()
    assert caption(folder, "--beside", "--overwrite", captioner="measured") == 0
    now = {row["file_name"]: row["caption"] for row in rows(folder)}
    assert now == {
        "0.png": "my own words",
        "1.png": 'my "other" words',
        "2.png": describe(read_image(folder / "2.png").tensor()),
        "3.png": "written before",
    }
    for name, text in now.items():
        assert (folder / name).with_suffix(".txt").read_text().strip() == text


def test_an_edit_of_the_table_outlives_an_older_text_beside(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    assert caption(folder, "--beside") == 0
    (folder / "0.txt").write_text("first, in the text")
    assert caption(folder, "--beside") == 0
    table = folder / "captions.jsonl"
    second = describe(read_image(folder / "1.png").tensor())
    for before, after in (("first, in the text", "then in the table"), ("then in the table", "and once more")):
        table.write_text(table.read_text().replace(before, after).replace(second, f"{after} too"))
        second = f"{after} too"
        assert caption(folder, "--beside") == 0
        assert [row["caption"] for row in rows(folder)] == [after, second]
        assert [(folder / f"{name}.txt").read_text().strip() for name in "01"] == [after, second]


def test_captioned_anew_each_photo_has_one_line(tmp_path: Path, picky: str) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    assert caption(folder) == 0
    assert caption(folder, "--overwrite", captioner=picky) == 0
    assert [row["caption"] for row in rows(folder)] == ["20 x 24", "30 x 9"]


def test_a_table_elsewhere_is_of_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = photos(tmp_path / "one", (24, 20)), photos(tmp_path / "two", (9, 30))
    table = tmp_path / "all" / "k.jsonl"
    assert caption(one, "--out", str(table)) == 0
    assert caption(one, "--out", str(table)) == 0
    with alone_with(table):
        assert caption(one, "--out", str(table)) == 2
    capsys.readouterr()
    assert caption(two, "--out", str(table)) == 2
    assert f"{table} has the captions of {one}; give each folder its own --out." in capsys.readouterr().err
    one.rename(tmp_path / "moved")
    assert caption(tmp_path / "moved", "--out", str(table)) == 0


@pytest.mark.parametrize("first", ["deeper", "."])
def test_a_table_is_of_a_folder_or_of_one_below(first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "in", (24, 20))
    photos(folder / "deeper", (9, 30))
    second = {"deeper": ".", ".": "deeper"}[first]
    table = folder / "captions.jsonl"
    assert caption(folder / first, "--out", str(table)) == 0
    before = table.read_text()
    assert caption(folder / second, "--out", str(table)) == 2
    assert f"{table} has the captions of {folder / first}; give each folder" in capsys.readouterr().err
    assert table.read_text() == before
    assert caption(folder / first, "--out", str(table)) == 0


def test_a_table_that_is_a_link_stays_one(tmp_path: Path, picky: str) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    table = tmp_path / "k.jsonl"
    (folder / "captions.jsonl").symlink_to(table)
    assert caption(folder) == 0
    assert caption(folder, "--overwrite", captioner=picky) == 0
    assert (folder / "captions.jsonl").is_symlink()
    assert [row["caption"] for row in rows(folder)] == ["20 x 24", "30 x 9"]
    assert table.read_text().count("\n") == 2


class Watched(Captioner):
    """Has a person edit the table of the folder while the second photo is described."""

    table: ClassVar[Path]

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        if "first again" in (text := self.table.read_text()):
            self.table.write_text(text.replace("first again", "my own words"))
            return ["second again"]
        return ["first again"]


def test_an_edit_of_the_table_while_photos_are_captioned_stays(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    assert caption(folder) == 0
    Watched.table = folder / "captions.jsonl"
    (tmp_path / "watched.yaml").write_text("_target_: tests.commands.test_caption.Watched\n")
    assert caption(folder, "--overwrite", "--batch", "1", captioner=str(tmp_path / "watched.yaml")) == 0
    assert [row["caption"] for row in rows(folder)] == ["my own words", "second again"]


def test_the_captioners_words_are_a_persons_where_one_puts_them_back(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", (24, 20))
    assert caption(folder, "--beside") == 0
    table, first = folder / "captions.jsonl", (folder / "0.txt").read_text()
    table.write_text(table.read_text().replace(first.strip(), "my own words"))
    assert caption(folder, "--beside") == 0
    assert (folder / "0.txt").read_text() == "my own words\n"
    (folder / "0.txt").write_text(first)
    assert caption(folder, "--beside") == 0
    assert (folder / "0.txt").read_text() == first
    assert [row["caption"] for row in rows(folder)] == [first.strip()]


def test_an_older_text_beside_gives_way_to_what_was_captioned_since(tmp_path: Path, picky: str) -> None:
    folder = photos(tmp_path / "in", (24, 20))
    assert caption(folder, "--beside") == 0
    first = (folder / "0.txt").read_text()
    assert caption(folder, "--overwrite", captioner=picky) == 0
    assert (folder / "0.txt").read_text() == first
    for words in ("20 x 24", "my own words"):  # which are of the table, and the text is no edit of these
        table = folder / "captions.jsonl"
        table.write_text(table.read_text().replace("20 x 24", words))
        assert caption(folder, "--beside", captioner=picky) == 0
        assert (folder / "0.txt").read_text() == f"{words}\n"
        assert [(row["caption"], row["captioner"].rpartition(".")[2]) for row in rows(folder)] == [(words, "Picky")]


@pytest.mark.parametrize("written", [False, True])
def test_killed_beside_a_text_it_takes_no_words_of_its_own_for_a_persons(
    written: bool, tmp_path: Path, picky: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, text: str) -> None:
        if written:
            path.write_text(text)
        raise KeyboardInterrupt

    folder = photos(tmp_path / "in", (24, 20))
    assert caption(folder, "--beside") == 0
    with monkeypatch.context() as patch:
        patch.setattr("sspir.captioners.folder.write_text", write)
        assert caption(folder, "--beside", "--overwrite", captioner=picky) == 130
    assert caption(folder, "--beside", captioner=picky) == 0
    assert (folder / "0.txt").read_text() == "20 x 24\n"
    table = folder / "captions.jsonl"
    table.write_text(table.read_text().replace("20 x 24", "my own words"))
    assert caption(folder, "--beside", captioner=picky) == 0
    assert (folder / "0.txt").read_text() == "my own words\n"


def test_texts_beside_are_one_process_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "in", (24, 20))
    with alone_in(folder, "FOLDER"):
        assert caption(folder, "--beside", "--out", str(tmp_path / "k.jsonl")) == 2
        assert f"Another process writes into {folder}; let it finish" in capsys.readouterr().err
        assert not (folder / "0.txt").exists()
        assert caption(folder, "--out", str(tmp_path / "k.jsonl")) == 0


def test_marks_of_editors_and_halves_of_characters_are_no_words(tmp_path: Path) -> None:
    table = tmp_path / "captions.jsonl"
    table.write_text('{"file_name": "a.png", "caption": "a barn \\ud83d"}\n', encoding="utf-8-sig")
    assert find_captions(table)(tmp_path / "a.png", "a.png") == "a barn \N{REPLACEMENT CHARACTER}"
    (tmp_path / "a.txt").write_text("a red barn\n", encoding="utf-8-sig")
    assert find_captions("beside")(tmp_path / "a.png", "a.png") == "a red barn"


def test_a_photo_that_fails_does_not_keep_the_others(
    tmp_path: Path, picky: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "in", (24, 20), (16, 16), (9, 30))
    (folder / "broken.png").write_bytes(b"no image")
    assert caption(folder, captioner=picky) == 1
    told = capsys.readouterr()
    assert "square photos are refused" in told.err
    assert "broken.png" in told.err
    assert "2 captioned, 0 had a caption, 2 failed" in told.out
    assert [row["caption"] for row in rows(folder)] == ["20 x 24", "30 x 9"]


def test_a_captioner_that_is_gone_ends_it_in_one_sentence(
    tmp_path: Path, picky: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 200), (9, 30))
    assert caption(folder, "--batch", "1", captioner=picky) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("The server is gone. 1 photo captioned before; the same command goes on from there.")
    assert len(rows(folder)) == 1


def test_a_torn_line_is_taken_away_and_a_broken_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "in", (24, 20), (9, 30))
    caption(folder)
    table = folder / "captions.jsonl"
    whole = table.read_text()
    for cut in (len(whole) - 1, len(whole) - 2, len(whole) - 60):
        table.write_text(whole[:cut])
        assert caption(folder) == 0
        assert len(rows(folder)) == 2
    for slip in ('{"file_name": "0.png", "caption": "an "old" house"}', '{"file_name": "0.png"}'):
        for end in ("\n", ""):  # as some editors leave it
            table.write_text(slip + end)
            assert caption(folder) == 2
            assert "Line 1 of" in capsys.readouterr().err
            assert table.read_text() == slip + end


@pytest.mark.parametrize("shown", ["processor", "restored"])
def test_a_first_restoration_is_described(shown: str, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    folder = photos(tmp_path / "in", (24, 20))
    assert caption(folder, "--shown", shown, "--weights", str(tmp_path / "model"), "--steps", "2") == 0
    lq = read_image(folder / "0.png").tensor()
    from dataclasses import replace

    sampler = replace(tiny_pipeline().sampler, steps=2 if shown == "restored" else 1, guidance=1.0)
    restored = tiny_pipeline().restore(lq[None], [""], sampler=sampler)
    image = restored.images[0] if shown == "restored" else restored.structure[0][0]
    (row,) = rows(folder)
    assert row["shown"] == shown
    assert row["shown_by"].startswith(str(tmp_path))
    assert row["caption"] == describe(image)
    assert image.shape[-1] > lq.shape[-1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--captioner", "lava"], "There is no captioner lava; choose one of endpoint, llava"),
        (["--captioner", "llava", "--set", "pth=x"], "--set pth=x changes nothing"),
        (["--captioner", "llava", "--set", "batch_size=many"], "takes a number"),
        (["--captioner", "llava", "--set", "batch_size=inf"], "takes a number where the captioner has"),
        (["--captioner", "llava", "--set", "quantization=2bit"], "quantization=2bit is not known"),
        (["--captioner", "llava", "--set", "path=/missing/llava"], "The folder /missing/llava (--set path=)"),
        (["--captioner-input", "restored"], "need --weights"),
        (["--weights", "somewhere"], "lq takes none"),
        (
            ["--captioner-input", "processor", "--weights", "somewhere", "--device", "nonsense"],
            "The device 'nonsense' cannot be used",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "in", (24, 20))
    assert main(["caption", str(folder), *flags]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in told
    assert not (folder / "captions.jsonl").exists()


@pytest.mark.parametrize(
    ("count", "kills"),
    [pytest.param(160, 1, marks=pytest.mark.thorough), pytest.param(2000, 5, marks=pytest.mark.slow)],
)
def test_killed_at_any_moment_it_ends_with_every_caption_once(count: int, kills: int, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)).save(folder / f"{index:04}.bmp")
    table = folder / "captions.jsonl"
    chance = random.Random(0)
    for round_ in range(kills):
        before = table.stat().st_size if table.exists() else 0
        process = start("caption", folder, "--captioner", "measured", "--beside")
        wait_until(lambda size=before: table.exists() and table.stat().st_size != size, process)
        time.sleep(chance.uniform(0.0, count / 3000))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL, f"round {round_} ended"
    assert kills <= len(rows_that_parse(table)) < count
    assert caption(folder, "--beside") == 0
    made = rows(folder)
    assert len(made) == len({row["file_name"] for row in made}) == count
    assert len(list(folder.glob("*.txt"))) == count
    assert not list(folder.glob(".*"))
    for row in made[::97]:
        assert row["caption"] == describe(read_image(folder / row["file_name"]).tensor())
        assert (folder / row["file_name"]).with_suffix(".txt").read_text() == row["caption"] + "\n"


def rows_that_parse(table: Path) -> list[str]:
    return [line for line in table.read_text().splitlines() if line.endswith("}")]


def test_words_change_the_picture_and_no_words_are_what_none_says() -> None:
    pipeline = tiny_pipeline()
    lq = torch.rand(1, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    sampler = pipeline.settings(steps=2)
    made, edited, empty = (
        pipeline.restore(lq, [text], sampler=sampler).images for text in ("an old brick house", "a boat at sea", "")
    )
    assert not torch.equal(made, edited)
    assert torch.equal(empty, pipeline.restore(lq, NoCaption()(lq, ["a house"]), sampler=sampler).images)
    assert not torch.equal(made, empty)


@pytest.mark.parametrize(
    ("old", "text", "value"),
    [(0.2, "1e-1", 0.1), (0, "1e-1", 0.1), (64, "32", 32), (64, "64.0", 64), (0.2, "1", 1.0), ("a", "null", None)],
)
def test_a_setting_keeps_its_kind(old: float | str, text: str, value: float | None) -> None:
    found = _value(old, text)
    assert (found, type(found)) == (value, type(value))

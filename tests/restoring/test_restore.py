"""`sspir restore` from the command line: what is written, what is told, what is kept."""

import copy
import json
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import sspir.sampling.pipeline
from sspir.__main__ import main
from sspir.captioners.base import Captioner, CaptionerUnavailableError, Images
from sspir.errors import UserError
from sspir.files import Journal, alone_in
from sspir.images.io import read_image
from sspir.models.latent import upscale
from sspir.restoring.jobs import JOURNAL, find_jobs
from sspir.restoring.runner import JobRunner, Request
from tests.devices import DEVICES
from tests.pipelines import photo, tiny_pipeline, write_photo
from tests.processes import start, wait_until
from tests.runs import tiny_run


def restore(*arguments: object) -> int:
    return main(["restore", *map(str, arguments), "--steps", "1"])


def lines(out: Path) -> list[dict]:
    """What became of the photos."""
    told = [json.loads(line) for line in (out / "restore.jsonl").read_text().splitlines()]
    return [line for line in told if line["status"] not in ("described", "begun")]


def test_a_folder_is_mirrored_and_a_broken_photo_stops_nothing(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    write_photo(tmp_path / "in" / "größe & co = 1.jpg", 24, 20)
    write_photo(tmp_path / "in" / "deep" / "er" / "b.png", 9, 31)
    (tmp_path / "in" / "a broken.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "in" / "empty.jpg").touch()
    (tmp_path / "in" / "notes.txt").write_text("no photo")
    out = tmp_path / "out"
    assert restore(tmp_path / "in", "--out", out, "--weights", weights) == 1
    assert read_image(out / "größe & co = 1.png").pixels.shape == (96, 80, 3)
    assert read_image(out / "deep" / "er" / "b.png").pixels.shape == (36, 124, 3)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        "b.png",
        "größe & co = 1.png",
        "restore.jsonl",
    ]
    told = {line["output"]: line for line in lines(out)}
    assert "HTML" in told["a broken.png"]["error"]
    assert "empty file" in told["empty.png"]["error"]
    done = told["deep/er/b.png"]
    assert done["caption"].startswith("a ")
    assert (done["seed"], done["scale"], done["size"], done["settings"]["steps"]) == (0, 4, [124, 36], 1)
    assert done["seconds"] > 0
    assert done["peak_memory_mb"] > 100
    assert done["warnings"] == []
    errors = capsys.readouterr().err
    assert "failed: a broken.png: " in errors
    assert "failed: empty.jpg: " in errors


def test_started_again_it_does_only_what_is_left(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("a", "b", "c"):
        write_photo(tmp_path / "in" / f"{name}.png", seed=ord(name))
    out, command = tmp_path / "out", [tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
    assert restore(*command) == 0
    (out / "b.png").unlink()
    write_photo(tmp_path / "in" / "c.png", seed=99)
    before = (out / "a.png").stat().st_mtime_ns
    with alone_in(out, "--out"):
        assert restore(*command) == 2
    assert f"Another process writes into {out}; let it finish" in capsys.readouterr().err
    assert restore(*command) == 0
    assert "2 restored, 1 were done before" in capsys.readouterr().out
    assert (out / "a.png").stat().st_mtime_ns == before
    assert restore(*command, "--caption", "a house") == 0
    assert "3 restored, 0 were done before" in capsys.readouterr().out
    assert restore(*command, "--skip-existing", "--seed", 5) == 0
    assert "0 restored, 3 were done before" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_file_of_others_in_a_folder_without_results_fails_alone_and_stays(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a", "b"):
        write_photo(tmp_path / "in" / f"{name}.png", 8, 8)
    mine = write_photo(tmp_path / "out" / "a.png", 9, 9).read_bytes()
    assert restore(tmp_path / "in", "--out", tmp_path / "out", "--weights", weights) == 1
    told = capsys.readouterr()
    assert f"failed: a.png: {tmp_path}/out/a.png exists and was not written by this command" in told.err
    assert "1 restored, 0 were done before, 1 failed" in told.out
    assert (tmp_path / "out" / "a.png").read_bytes() == mine
    assert (tmp_path / "out" / "b.png").exists()


@pytest.mark.thorough
def test_files_of_others_in_a_folder_of_results_fail_alone_and_stay(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    out, command = tmp_path / "out", [tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
    write_photo(tmp_path / "in" / "a.png", 8, 8)
    assert restore(*command) == 0
    for name in ("b", "c"):
        write_photo(tmp_path / "in" / f"{name}.png", 8, 8)
    mine = {name: write_photo(out / name, 9, 9).read_bytes() for name in ("b.png", "c.compare.png")}
    for _ in range(2):  # that it failed makes the file no result
        assert restore(*command, "--compare", "--dry-run") == 1
        assert restore(*command, "--compare") == 1
        told = capsys.readouterr()
        assert f"failed: b.png: {out}/b.png exists and was not written by this command; choose another" in told.err
        assert f"failed: c.png: {out}/c.compare.png exists and was not written by this command" in told.err
        assert {name: (out / name).read_bytes() for name in mine} == mine
    assert (out / "a.compare.png").exists()
    assert restore(*command, "--skip-existing", "--compare") == 1
    told = capsys.readouterr()
    assert "out/b.png is left as found, not made by this command" in told.err
    assert "failed: c.png: " in told.err
    assert {name: (out / name).read_bytes() for name in mine} == mine
    assert restore(*command, "--compare", "--overwrite") == 0
    write_photo(tmp_path / "other" / "a.compare.jpg", 8, 8)
    assert restore(tmp_path / "other", *command[1:]) == 2
    assert f"{out}/a.compare.png exists and belongs to a.png; choose another --out" in capsys.readouterr().err
    assert restore(*command, "--seed", "1") == 0
    assert restore(*command, "--seed", "2", "--compare") == 0


def test_a_result_is_kept_from_a_photo_of_the_same_name(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    for number, day in enumerate(("one", "two")):
        write_photo(tmp_path / day / "a.png", seed=number)
    command, result = ["--out", tmp_path / "out", "--weights", weights], tmp_path / "out" / "a.png"
    assert restore(tmp_path / "one", *command) == 0
    first = result.read_bytes()
    assert restore(tmp_path / "two", *command) == 2
    sentence = f"{result} is the result of {tmp_path}/one/a.png, not of {tmp_path}/two/a.png; choose another --out"
    assert sentence in capsys.readouterr().err
    assert result.read_bytes() == first
    assert restore(tmp_path / "two", *command, "--overwrite") == 0
    assert result.read_bytes() != first
    (tmp_path / "two").rename(tmp_path / "three")  # a photo that was moved may have its result anew
    assert restore(tmp_path / "three", *command) == 0


def test_a_photo_is_the_same_from_every_folder(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for number, day in enumerate(("one", "two")):
        write_photo(tmp_path / day / "in" / "a.png", seed=number)
    command, result = ["--out", tmp_path / "out", "--weights", weights], tmp_path / "out" / "a.png"
    monkeypatch.chdir(tmp_path / "one")
    assert restore("in", *command) == 0
    first = result.read_bytes()
    monkeypatch.chdir(tmp_path / "two")
    assert restore("in", *command) == 2
    assert f"{result} is the result of {tmp_path}/one/in/a.png, not of in/a.png" in capsys.readouterr().err
    capsys.readouterr()
    assert restore(tmp_path / "one" / "in", *command) == 0
    assert "0 restored, 1 were done before" in capsys.readouterr().out
    assert result.read_bytes() == first
    journal = tmp_path / "out" / "restore.jsonl"  # as it was before lines had a place
    journal.write_text(re.sub(r'"place": "[^"]*", ', "", journal.read_text()).replace('"in/', f'"{tmp_path}/one/in/'))
    assert restore(tmp_path / "one" / "in", *command) == 0
    assert "0 restored, 1 were done before" in capsys.readouterr().out


@pytest.mark.thorough
def test_weights_are_the_same_from_every_folder(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_photo(tmp_path / "a.png", 8, 8)
    (tmp_path / "x" / "deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "x" / "deep"):
        monkeypatch.chdir(folder)
        given = [os.path.relpath(path, folder) for path in (tmp_path / "a.png", tmp_path / "out", weights)]
        assert restore(given[0], "--out", given[1], "--weights", given[2]) == 0
    assert "0 restored, 1 were done before" in capsys.readouterr().out
    assert lines(tmp_path / "out")[0]["weights"].startswith(f"{weights} of ")


def test_a_photo_that_fails_claims_no_result(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    write_photo(tmp_path / "one" / "a.png")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.png").write_bytes(b"half a picture")
    command = ["--out", tmp_path / "out", "--weights", weights]
    assert restore(tmp_path / "one", *command) == 0
    assert restore(tmp_path / "two", *command, "--overwrite") == 2
    write_photo(tmp_path / "two" / "a.png", seed=1)
    assert restore(tmp_path / "two", *command) == 2
    assert f"a.png is the result of {tmp_path}/one/a.png" in capsys.readouterr().err


def test_a_photo_that_changes_meanwhile_is_not_done(tmp_path: Path) -> None:
    source = write_photo(tmp_path / "a.png", 8, 8)
    (job,) = find_jobs([str(source)], tmp_path / "out")
    pipeline, journal = tiny_pipeline(), Journal(tmp_path / "out", JOURNAL)
    runner = JobRunner(
        pipeline, Request(pipeline.sampler, 4), journal, on_progress=lambda *_: write_photo(source, 9, 9) and None
    )
    assert runner.run([job]) == {}
    assert read_image(job.target).pixels.shape == (32, 32, 3)
    assert not runner.is_done(job)
    runner.on_progress = lambda *_: None
    assert runner.run([job]) == {}
    assert read_image(job.target).pixels.shape == (36, 36, 3)
    assert runner.is_done(job)


def test_a_photo_that_comes_later_takes_no_name(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    command = [tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
    write_photo(tmp_path / "in" / "a.png", 8, 8)
    assert restore(*command) == 0
    write_photo(tmp_path / "in" / "a.jpg", 12, 12)
    (tmp_path / "in" / "b.gif").touch()
    assert restore(*command) == 0
    told = capsys.readouterr()
    assert "1 restored, 1 were done before" in told.out
    assert read_image(tmp_path / "out" / "a.png").pixels.shape == (32, 32, 3)
    assert read_image(tmp_path / "out" / "a.jpg.png").pixels.shape == (48, 48, 3)
    assert restore(*command) == 0
    assert "0 restored, 2 were done before" in capsys.readouterr().out


def test_a_signal_stops_it_and_the_next_run_goes_on(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in range(12):
        write_photo(tmp_path / "in" / f"{number}.png")
    out = tmp_path / "out"

    def send() -> None:
        while not (out / "0.png").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    handler = signal.getsignal(signal.SIGTERM)
    assert restore(tmp_path / "in", "--out", out, "--weights", weights) == 143
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert "goes on" in capsys.readouterr().err
    written = [path for path in out.iterdir() if path.suffix == ".png"]
    assert 1 <= len(written) < 12
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert restore(tmp_path / "in", "--out", out, "--weights", weights) == 0
    assert len([read_image(path) for path in out.glob("*.png")]) == 12
    assert {line["output"] for line in lines(out)} == {f"{number}.png" for number in range(12)}


def test_stopped_between_a_result_and_its_line_it_knows_its_own_file(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(tmp_path / "in" / "0.png")
    out = tmp_path / "out"
    append = Journal.append

    def stopped_before_it(journal: Journal, entry: dict) -> None:
        if entry["status"] == "done":
            os.kill(os.getpid(), signal.SIGTERM)
        append(journal, entry)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stopped_before_it)
        assert restore(tmp_path / "in", "--out", out, "--weights", weights) == 143
    assert (out / "0.png").exists()
    assert restore(tmp_path / "in", "--out", out, "--weights", weights) == 0
    assert [line["status"] for line in lines(out)] == ["done"]


def test_killed_outright_it_leaves_no_partial_file(tmp_path: Path, weights: Path) -> None:
    for number in range(8):
        write_photo(tmp_path / "in" / f"{number}.png")
    out = tmp_path / "out"
    process = start("restore", tmp_path / "in", "--out", out, "--weights", weights, "--steps", "1")
    wait_until((out / "1.png").exists, process)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    for path in out.glob("*.png"):
        read_image(path)
    assert all("status" in line for line in lines(out))
    assert restore(tmp_path / "in", "--out", out, "--weights", weights, "--steps", "1") == 0
    assert len(list(out.glob("*.png"))) == 8


def test_a_torn_line_of_the_journal_is_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JOURNAL)
    journal.append({"output": "a.png", "status": "done"})
    with journal.path.open("a") as file:
        file.write('{"output": "b.png", "sta')
    again = Journal(tmp_path, JOURNAL)
    again.append({"output": "c.png", "caption": "été"})
    assert set(Journal(tmp_path, JOURNAL).entries) == {"a.png", "c.png"}
    assert "été" in journal.path.read_text(encoding="utf-8")


def test_depth_grey_alpha_and_metadata_come_back(tmp_path: Path, weights: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    rgb = Image.fromarray((np.random.default_rng(0).random((12, 8, 3)) * 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    rgb.save(source / "turned.jpg", exif=exif)
    Image.fromarray((np.linspace(0, 65535, 96).reshape(8, 12)).astype(np.uint16)).save(source / "grey16.png")
    rgba = rgb.copy()
    rgba.putalpha(Image.linear_gradient("L").resize((8, 12)))
    rgba.save(source / "alpha.png")
    rgb.convert("P").save(source / "palette.png")
    rgb.convert("L").save(source / "grey.tif")
    out = tmp_path / "out"
    assert restore(source, "--out", out, "--weights", weights, "--batch", 4) == 0
    turned = read_image(out / "turned.png")
    assert turned.pixels.shape == (32, 48, 3)
    assert Image.open(out / "turned.png").getexif()[0x010F] == "maker"
    grey16 = read_image(out / "grey16.png")
    assert grey16.grey
    assert grey16.pixels.dtype == np.uint16
    assert len(np.unique(grey16.pixels)) > 256
    alpha = read_image(out / "alpha.png").alpha
    assert alpha is not None
    assert alpha.shape == (48, 32)
    assert alpha[0].mean() < 40 < 200 < alpha[-1].mean()
    assert read_image(out / "grey.png").grey


def test_samples_compare_and_format(tmp_path: Path, weights: Path) -> None:
    write_photo(tmp_path / "a.png")
    out = tmp_path / "out"
    arguments = [
        tmp_path / "a.png",
        "--out",
        out,
        "--weights",
        weights,
        "--samples",
        3,
        "--compare",
        "--format",
        "webp",
    ]
    assert restore(*arguments) == 0
    names = {path.name for path in out.iterdir()} - {"restore.jsonl"}
    assert names == {
        *("a.webp", "a.sample2.webp", "a.sample3.webp", "a.mean.webp"),
        *("a.trust.png", "a.spread.npy", "a.compare.png"),
    }
    spread = np.load(out / "a.spread.npy")
    assert spread.shape == (96, 80)
    assert spread.min() >= 0
    assert spread.mean() > 0
    compare = read_image(out / "a.compare.png").pixels.shape
    assert compare[1] > 2 * 80
    (out / "a.own.png").touch()
    assert restore(*arguments[:5], "--samples", 2, "--format", "webp", "--seed", 1) == 0  # of which the others are not
    left = {path.name for path in out.iterdir()} - {"restore.jsonl"}
    assert left == names - {"a.sample3.webp", "a.compare.png"} | {"a.own.png"}


def test_captions_from_every_source(tmp_path: Path, weights: Path) -> None:
    write_photo(tmp_path / "in" / "a.png")
    write_photo(tmp_path / "in" / "b.png")
    table = tmp_path / "captions.jsonl"
    table.write_text(json.dumps({"file_name": "a.png", "caption": "a red barn"}) + "\n")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_text("two dogs\n")
    wanted = {
        ("--caption", "a boat"): ("a boat", "a boat"),
        ("--captions", table): ("a red barn", None),
        ("--captions", tmp_path / "texts"): (None, "two dogs"),
        ("--captioner", "none"): ("", ""),
    }
    for number, (flags, captions) in enumerate(wanted.items()):
        out = tmp_path / f"out{number}"
        assert restore(tmp_path / "in", "--out", out, "--weights", weights, *flags) == 0
        for name, caption in zip("ab", captions, strict=True):
            told = next(line["caption"] for line in lines(out) if line["output"] == f"{name}.png")
            assert told == caption or (caption is None and told.startswith("a "))


@pytest.mark.thorough
def test_a_table_that_fits_no_photo_is_refused_null_asks_and_an_empty_caption_is_no_words(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    write_photo(tmp_path / "in" / "a.png")
    table = tmp_path / "captions.jsonl"
    flags = ["--out", tmp_path / "out", "--weights", weights, "--captions", table]
    table.write_text(json.dumps({"file_name": "in/a.png", "caption": "a red barn"}) + "\n")
    assert restore(tmp_path / "in", *flags) == 2
    assert "in/a.png, a photo is called a.png; file_name must be the path below" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert restore(f"{tmp_path}/*/*.png", *flags, "--dry-run") == 0
    table.write_text(json.dumps({"file_name": "a.png", "caption": None}) + "\n")
    assert restore(tmp_path / "in", *flags) == 0
    assert lines(tmp_path / "out")[-1]["caption"].startswith("a ")  # the captioner's
    table.write_text(json.dumps({"file_name": "a.png", "caption": ""}) + "\n")
    assert restore(tmp_path / "in", *flags) == 0
    assert lines(tmp_path / "out")[-1]["caption"] == ""
    (tmp_path / "in" / "a.txt").touch()
    assert restore(tmp_path / "in", *flags[:-1], "beside", "--seed", 1) == 0
    assert lines(tmp_path / "out")[-1]["caption"] == ""


class Recorded(Captioner):
    """Says the size of what it sees, and notes when it is asked and freed."""

    notes: ClassVar[list[str]] = []

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        self.notes.append(f"asked about {len(images)}")
        return [f"{image.shape[2]} x {image.shape[1]}, {image.mean():.6f}" for image in images]

    def close(self) -> None:
        self.notes.append("freed")


def test_captions_come_first_together_and_their_model_is_freed(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        write_photo(tmp_path / "in" / f"{number}.png", 8 + number, 8, seed=number)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    (tmp_path / "recorded.yaml").write_text(f"_target_: {Recorded.__module__}.Recorded\n")
    sampled = sspir.sampling.pipeline.restore_batch
    monkeypatch.setattr(
        sspir.sampling.pipeline, "restore_batch", lambda *rest: Recorded.notes.append("sampled") or sampled(*rest)
    )
    Recorded.notes.clear()
    flags = ["--captioner", tmp_path / "recorded.yaml", "--weights", weights]
    assert restore(tmp_path / "in", "--out", tmp_path / "out", *flags) == 1
    assert Recorded.notes == ["asked about 8", "asked about 1", "freed", *["sampled"] * 9]
    told = {line["output"]: line.get("caption", "") for line in lines(tmp_path / "out")}
    assert told["0.png"].startswith("32 x 32")
    assert told["8.png"].startswith("32 x 64")


class Down(Captioner):
    """A captioner that cannot be asked, unless it is up."""

    asked = 0
    up = False

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        Down.asked += 1
        if not self.up:
            raise CaptionerUnavailableError("the server is gone.")
        return ["a barn"] * len(images)


@pytest.mark.thorough
def test_what_was_restored_while_the_captioner_was_down_is_not_done(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for number in range(9):
        write_photo(tmp_path / "in" / f"{number}.png", 8, 8, seed=number)
    (tmp_path / "down.yaml").write_text(f"_target_: {Down.__module__}.Down\n")
    flags = [tmp_path / "in", "--out", tmp_path / "out", "--captioner", tmp_path / "down.yaml", "--weights", weights]
    Down.asked = 0
    assert restore(*flags) == 0
    assert Down.asked == 1  # and not again for what comes after the first eight
    assert "9 photos, such as 0.png: restored without a caption: the server is gone." in capsys.readouterr().err
    assert restore(*flags) == 0
    told = capsys.readouterr()
    assert "0 restored, 9 were done before" in told.out  # as it is down still
    assert "9 photos, such as 0.png: restored without a caption: the server is gone." in told.err
    monkeypatch.setattr(Down, "up", True)
    assert restore(*flags) == 0
    assert "9 restored, 0 were done before" in capsys.readouterr().out
    assert restore(*flags) == 0
    assert "0 restored, 9 were done before" in capsys.readouterr().out
    assert {line["caption"] for line in lines(tmp_path / "out")[9:]} == {"a barn"}


@pytest.mark.thorough
def test_captions_outlive_a_stop(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_photo(tmp_path / "in" / f"{number}.png", seed=number)
    (tmp_path / "recorded.yaml").write_text(f"_target_: {Recorded.__module__}.Recorded\n")
    flags = ["--captioner", tmp_path / "recorded.yaml", "--weights", weights]
    with monkeypatch.context() as patched:
        patched.setattr(sspir.sampling.pipeline, "restore_batch", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert restore(tmp_path / "in", "--out", tmp_path / "out", *flags) == 143
    Recorded.notes.clear()
    write_photo(tmp_path / "in" / "1.png", seed=9)
    assert restore(tmp_path / "in", "--out", tmp_path / "out", *flags) == 0
    assert Recorded.notes == ["asked about 1", "freed"]  # the photo that is another one now
    whole = tmp_path / "whole"
    assert restore(tmp_path / "in", "--out", whole, *flags) == 0
    assert [line["caption"] for line in lines(tmp_path / "out")] == [line["caption"] for line in lines(whole)]
    Recorded.notes.clear()
    assert restore(tmp_path / "in", "--out", whole, "--scale", "2", *flags) == 0
    assert Recorded.notes == ["asked about 3", "freed"]  # it is shown smaller images


@pytest.mark.thorough
def test_what_is_described_is_a_choice(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    write_photo(tmp_path / "a.png")
    (tmp_path / "recorded.yaml").write_text(f"_target_: {Recorded.__module__}.Recorded\n")
    told = {}
    for shown in ("lq", "processor", "restored"):
        flags = ["--captioner", tmp_path / "recorded.yaml", "--captioner-input", shown, "--weights", weights]
        assert restore(tmp_path / "a.png", "--out", tmp_path / "out", *flags) == 0
        assert "1 restored, 0 were done" in capsys.readouterr().out  # another choice, another picture
        told[shown] = lines(tmp_path / "out")[-1]["caption"]
    lq = read_image(tmp_path / "a.png").tensor()[None]
    pipeline = tiny_pipeline()
    images = {
        "lq": upscale(lq, (96, 80))[0],
        "processor": pipeline.restore(lq, [""]).structure[0][0],
        "restored": pipeline.restore(lq, [""], sampler=pipeline.settings(steps=8, guidance=1.0)).images[0],
    }
    for shown, image in images.items():
        words, _, mean = told[shown].rpartition(", ")
        assert words == "80 x 96"
        assert abs(float(mean) - image.mean()) < 1e-4
    assert len(set(told.values())) == 3
    result = pipeline(lq[0], shown="processor", output_type="pt", steps=1)
    assert result.captions == pipeline.caption(lq, (96, 80), "processor")


@pytest.mark.thorough
def test_another_captioner_is_another_result(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    write_photo(tmp_path / "a.png")
    for flags, done in ((["none"], 1), (["measured"], 1), (["measured"], 0)):
        arguments = ["--out", tmp_path / "out", "--weights", weights, "--captioner", *flags]
        assert restore(tmp_path / "a.png", *arguments) == 0
        assert f"{done} restored" in capsys.readouterr().out
        assert restore(tmp_path / "a.png", *arguments) == 0
        assert "0 restored" in capsys.readouterr().out


@pytest.mark.thorough
def test_other_words_of_ones_own_captioner_are_another_result(tmp_path: Path, weights: Path) -> None:
    write_photo(tmp_path / "a.png")
    names = ("Saying", "Saying", "Versioned", "Versioned")
    for name, word in zip(names, ("a tree", "a house", "a tree", "a house"), strict=True):
        (tmp_path / "own.yaml").write_text(f"_target_: tests.captioners.test_captioner.{name}\nword: {word}\n")
        flags = ["--out", tmp_path / "out", "--weights", weights, "--captioner", tmp_path / "own.yaml"]
        assert restore(tmp_path / "a.png", *flags) == 0
        assert lines(tmp_path / "out")[-1]["caption"] == word
        assert lines(tmp_path / "out")[-1]["captioner"]["captioner"].endswith(f".{name}")


def test_a_captioner_that_fails_costs_the_words_not_the_photo(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    write_photo(tmp_path / "a.png")
    (tmp_path / "gone.yaml").write_text(
        "_target_: sspir.captioners.EndpointCaptioner\nurl: http://127.0.0.1:9/v1\nmodel: m\nretries: 0\n"
    )
    flags = ["--out", tmp_path / "out", "--weights", weights, "--captioner", tmp_path / "gone.yaml"]
    assert restore(tmp_path / "a.png", *flags) == 0
    (line,) = lines(tmp_path / "out")
    assert line["caption"] == ""
    sentence = "restored without a caption: The captioner at http://127.0.0.1:9"
    assert sentence in line["warnings"][0]
    assert f"a.png: {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["nothing.png"], "no photo or folder nothing.png"),
        (["in", "--weights", "in"], "holds no weights"),
        (["in", "--sampler", "unipcc"], "no sampler unipcc"),
        (["in", "--captioner", "llama"], "no captioner llama"),
        (["in", "--colour", "sepia"], "'sepia' is no colour fix"),
        (["in", "--colour", "adain:2"], "--colour: '2' is no number from 0 to 1"),
        (["in", "--start", "soon"], "--start: 'soon' is no whole number"),
        (["in", "--start", "2000"], "from 1 to 999"),
        (["in", "--tile", "4"], "tile=4 is not above what tiles share, overlap=8"),
        (["in", "--captions", "no.jsonl"], "no.jsonl are missing; give a .jsonl or .parquet file, a folder of .txt or"),
        (["nix*.png"], "nix*.png holds no photos to restore; name another input"),
        (["in", "--device", "cuda:7"], "'cuda:7' cannot be used"),
        (["in", "--device", "nonsense"], "'nonsense' cannot be used"),
        (["in/a.png", "--out", "in"], "is itself a photo"),
        (["in/a.png", "--out", "full"], "was not written by this command"),
        (["in/a.png", "--out", "side", "--compare"], "a.compare.png exists and was not written by this command"),
        (["in", "other"], "would both be written to"),
        (["in", "--compare", "--format", "same"], "a.compare.png would be written for in/a.jpg and for in/a.png"),
        (["in", "--samples", "2", "--format", "same"], "a.trust.png would be written for in/a.jpg and for in/a.png"),
        (["in", "--samples", "2", "--format", "png"], "a.mean.png would be written for in/a.mean.jpg and for in/a.png"),
        (["in", "--out", "new.gif"], "ends in .gif, which is not written"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    flags: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "in" / "a.png")
    if "other" in flags:
        write_photo(tmp_path / "other" / "a.jpg")
    if "--format" in flags:
        write_photo(tmp_path / "in" / ("a.jpg" if "same" in flags else "a.mean.jpg"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").write_bytes(b"mine")
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / "a.compare.png").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    assert restore("--out", "out", "--weights", weights, *flags) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") <= 2
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "out"] == before
    assert (tmp_path / "full" / "a.png").read_bytes() == b"mine"


def test_patterns_results_in_the_input_and_a_bomb(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "p" / "x" / "a.jpg")
    write_photo(tmp_path / "p" / "b.jpg")
    Image.new("1", (1100, 1000)).save(tmp_path / "p" / "bomb.png")
    (tmp_path / "p" / "loop").symlink_to(tmp_path / "p")
    assert restore("p/**/*.jpg", "--out", "p/out", "--weights", weights) == 0
    assert {path.relative_to("p/out").as_posix() for path in Path("p/out").rglob("*.png")} == {"x/a.png", "b.png"}
    assert restore("p", "--out", "p/out", "--weights", weights, "--max-pixels", 1) == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert len(list(Path("p/out").rglob("*.png"))) == 2


@pytest.mark.parametrize("device", DEVICES)
def test_too_little_memory_is_tried_once_more_in_small_pieces(device: str, tmp_path: Path) -> None:
    pipeline = copy.deepcopy(tiny_pipeline()).to(device)
    jobs = find_jobs([str(write_photo(tmp_path / "a.png", 30, 110))], tmp_path / "out")
    structure, seen, held = pipeline.backbone.structure, [], []

    def narrow(lq: torch.Tensor) -> tuple:
        seen.append(lq.shape[-1])
        assert not [tensor for tensor in held if tensor() is not None]  # the memory of what failed is free again
        if lq.shape[-1] > 400:
            held.append(weakref.ref(lq))
            lq.new_empty(2**50)  # the device's own words
        return structure(lq)

    pipeline.backbone.structure = narrow
    journal = Journal(tmp_path / "out", JOURNAL)
    assert JobRunner(pipeline, Request(pipeline.sampler, 4), journal).run(jobs) == {}
    assert seen[0] == 440
    assert max(seen[1:]) <= 400
    assert "too little memory" in journal.entries["a.png"]["warnings"][0]
    assert read_image(jobs[0].target).pixels.shape == (120, 440, 3)


def test_what_is_nan_in_half_precision_is_restored_in_full(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    wanted = pipeline(photo(), "a", output_type="pt").images[0]
    denoise = pipeline.backbone.denoise

    def overflow(sample: torch.Tensor, *arguments: object) -> torch.Tensor:
        return denoise(sample, *arguments) * (float("nan") if sample.dtype == torch.bfloat16 else 1)

    pipeline.backbone.denoise = overflow
    try:
        restored = pipeline.in_dtype("bfloat16").restore(photo()[None], ["a"])
        assert pipeline.unet.dtype == torch.bfloat16
        assert "restored in float32" in restored.warnings[0]
        assert (restored.images[0] - wanted).abs().max() < 0.1  # the weights were rounded
        pipeline.in_dtype("float32")
        pipeline.backbone.denoise = lambda *arguments: denoise(*arguments) * float("nan")
        with pytest.raises(UserError, match="NaN or is black"):
            pipeline.restore(photo()[None], ["a"])
    finally:
        del pipeline.backbone.denoise
        tiny_pipeline.cache_clear()  # its weights were rounded


def test_a_result_that_cannot_be_written_fails_and_leaves_nothing_half(tmp_path: Path, weights: Path) -> None:
    write_photo(tmp_path / "in" / "a.png")
    write_photo(tmp_path / "in" / "b.png")
    out = tmp_path / "out"
    (out / "a.png").mkdir(parents=True)  # cannot be replaced by a file
    assert restore(tmp_path / "in", "--out", out, "--weights", weights, "--overwrite") == 1
    assert "cannot be written" in lines(out)[0]["error"]
    assert {path.name for path in out.iterdir()} == {"a.png", "b.png", "restore.jsonl"}


@pytest.mark.thorough
def test_another_checkpoint_of_a_run_is_another_model(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny_run(tmp_path / "run", photo_folder, "trainer.max_steps=2", "keep_every=1")
    write_photo(tmp_path / "a.png", 16, 16)
    command = [tmp_path / "a.png", "--out", tmp_path / "out", "--weights", tmp_path / "run", "--captioner", "none"]
    told = []
    for checkpoint in ([], ["--checkpoint", "last"], ["--checkpoint", "step-1"], ["--checkpoint", "step-1"]):
        assert restore(*command, *checkpoint) == 0
        told.append(capsys.readouterr().out.split(";")[0])
    new, old = "1 restored, 0 were done before, 0 failed", "0 restored, 1 were done before, 0 failed"
    assert told == [new, old, new, old]

"""`sspir restore --watch`: photos that come, change, move and vanish while it runs."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.restoring.watch import Watch
from tests.peers.networks import rrdbnet_file
from tests.pipelines import write_photo
from tests.processes import Process, start, wait_until


class Time:
    """A clock that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Looking:
    """A watch over folders of the current one, with a clock of ours."""

    def __init__(self, *folders: str) -> None:
        self.told: list[str] = []
        self.time = Time()
        self.watch = Watch(folders, Path("out"), None, self.told.append, self.time)

    def after(self, seconds: float) -> list[str]:
        self.time.now += seconds
        return [job.output for job in self.watch.jobs({})]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


def test_a_photo_is_taken_once_it_stands_still(place: Path) -> None:
    photo = place / "in" / "deep" / "a.jpg"
    photo.parent.mkdir()
    looking = Looking("in")
    photo.write_bytes(b"half")
    assert looking.after(0) == []
    assert looking.after(1.9) == []
    photo.write_bytes(b"half and more")
    assert looking.after(1.9) == []
    assert looking.after(1.9) == []  # since it was seen as it is now
    assert looking.after(0.2) == ["deep/a.png"]
    assert looking.after(99) == []
    status = photo.stat()
    photo.write_bytes(b"HALF and more")
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert looking.after(1) == []
    assert looking.after(2) == ["deep/a.png"]  # it is another one


def test_names_of_unfinished_files_are_passed_over_and_a_rename_is_a_new_photo(place: Path) -> None:
    looking = Looking("in")
    for name in ("a.jpg.part", "b.png.crdownload", ".c.png", "notes.txt"):
        (place / "in" / name).write_bytes(b"x")
    looking.after(0)
    assert looking.after(5) == []
    (place / "in" / "a.jpg.part").rename(place / "in" / "a.jpg")
    looking.after(0)
    assert looking.after(2) == ["a.png"]
    (place / "in" / "a.jpg").rename(place / "in" / "holiday.jpg")
    looking.after(0)
    assert looking.after(2) == ["holiday.png"]
    assert looking.told == []


def test_a_lost_drive_is_waited_for_and_told_once(place: Path) -> None:
    (place / "in" / "a.png").write_bytes(b"a")
    (place / "other").mkdir()
    looking = Looking("in", "other")
    looking.after(0)
    assert looking.after(2) == ["a.png"]
    shutil.move("in", "pulled out")
    for _ in range(3):
        assert looking.after(2) == []
    (place / "other" / "b.png").write_bytes(b"b")
    looking.after(0)
    assert looking.after(2) == ["b.png"]  # the other one goes on
    assert looking.told == ["in is lost (No such file or directory); waiting until it is back."]
    shutil.move("pulled out", "in")
    (place / "in" / "c.png").write_bytes(b"c")
    looking.after(0)
    assert looking.after(2) == ["c.png"]
    assert looking.told[1:] == ["in is back."]


def test_a_photo_that_was_lost_before_it_was_read_comes_again(place: Path) -> None:
    (place / "in" / "a.png").write_bytes(b"a")
    looking = Looking("in")
    looking.after(0)
    looking.time.now += 2
    (job,) = looking.watch.jobs({})
    looking.watch.forget(job)
    assert looking.after(0) == ["a.png"]


def test_one_name_in_two_folders_and_results_below_the_input(place: Path) -> None:
    for name in ("in/a.png", "other/a.jpg", "other/b.png", "in/out/c.png"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"x")
    looking = Looking("in", "other")
    looking.watch._out = Path("in/out")
    looking.after(0)
    assert looking.after(2) == ["a.png", "b.png"]
    assert looking.told == ["other/a.jpg is left out, as its result would have the name of one of in."]
    with pytest.raises(UserError, match=r"--watch looks into folders, and in/a\.png is none"):
        Looking("in/a.png")


def watching(place: Path, log: str) -> tuple[Process, list[object]]:
    command = ["restore", "--watch", place / "in", "--out", place / "out", "--scale", "2"]
    command += ["--weights", rrdbnet_file(place / "x.pth") if not (place / "x.pth").exists() else place / "x.pth"]
    process = start(*command, log=place / log)
    wait_until(lambda: "Watching" in text(place / log), process)
    return process, command


def text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def done(place: Path) -> list[str]:
    lines = (place / "out" / "restore.jsonl").read_text().splitlines()
    return [line["output"] for line in map(json.loads, lines) if line["status"] == "done"]


@pytest.mark.thorough
def test_a_real_one_restores_what_comes_and_a_restart_does_nothing_twice(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    write_photo(place / "in" / "a.png", 8, 8)
    process, command = watching(place, "first.log")
    wait_until((place / "out" / "a.png").exists, process)
    whole = write_photo(place / "elsewhere.png", 8, 10).read_bytes()
    (place / "in" / "b.png").write_bytes(whole[:60])
    wait_until(lambda: "failed: b.png" in text(place / "first.log"), process)
    assert main(list(map(str, command))) == 2  # a second one
    error = capsys.readouterr().err
    assert f"Another process writes into {place / 'out'}" in error
    assert error.count("\n") == 1
    (place / "in" / "b.png").write_bytes(whole)
    wait_until((place / "out" / "b.png").exists, process)
    wait_until(lambda: text(place / "first.log").count(" -> ") == 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert text(place / "first.log").count("failed: ") == 1
    assert "Stopped; the same command goes on" in text(place / "first.log")
    write_photo(place / "in" / "a.jpg", 8, 8)  # whose name comes before, and whose result's name is taken
    process, _ = watching(place, "second.log")
    write_photo(place / "in" / "c.png", 8, 8)
    wait_until(lambda: "c.png -> " in text(place / "second.log"), process)
    wait_until(lambda: "a.jpg -> " in text(place / "second.log"), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert sorted(done(place)) == ["a.jpg.png", "a.png", "b.png", "c.png"]
    assert "Traceback" not in text(place / "first.log") + text(place / "second.log")


def test_killed_outright_it_leaves_the_folder_free(place: Path) -> None:
    process, _ = watching(place, "first.log")
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process, _ = watching(place, "second.log")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_a_photo_that_comes_later_replaces_no_result_of_another(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    other = write_photo(place / "other" / "a.png", 8, 8)
    rest = ["--out", "out", "--scale", "2", "--weights", str(rrdbnet_file(place / "x.pth"))]
    assert main(["restore", "other", *rest]) == 0
    before, looks = (place / "out" / "a.png").read_bytes(), []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            for name in ("a", "b"):
                write_photo(place / "in" / f"{name}.png", 8, 8, seed=1)
        if len(looks) == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("sspir.restoring.watch.STILL", 0)
    monkeypatch.setattr("sspir.commands.restore.time.sleep", sleep)
    assert main(["restore", "--watch", "in", *rest]) == 143
    told = capsys.readouterr()
    assert told.err.count(f"out/a.png is the result of {other}, not of in/a.png; choose another --out") == 1
    assert told.out.count(" -> ") == 1
    assert (place / "out" / "a.png").read_bytes() == before


@pytest.mark.parametrize("flags", [["--dry-run"], ["--weights", "y.pth"], ["--out", "new.png"]])
def test_what_does_not_go_with_it(place: Path, flags: list[str], capsys: pytest.CaptureFixture) -> None:
    for name in ("x", "y"):
        rrdbnet_file(place / f"{name}.pth")
    assert main(["restore", "--watch", "in", "--out", "out", "--weights", "x.pth", *flags]) == 2
    assert "--watch takes one model and a folder as --out, and goes without --dry-run" in capsys.readouterr().err
    assert not Path("out").exists()

"""`sspir report --watch`: a page follows runs to their end."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sspir.errors import UserError
from sspir.files import write_text
from sspir.report.collect import Collected, collect
from sspir.report.progress import WINDOW, Speeds, duration
from sspir.report.runs import FINISHED, RUNNING, Run
from sspir.report.watch import watch
from sspir.training.run import alone_in, is_trained_in
from tests.processes import start, wait_until
from tests.runs import OVERRIDES, roots

ROW = re.compile(
    r"<tr><th>([\w-]+)</th><td>([^<]*)<small>([^<]*)</small></td>"
    r"<td>([^<]*)(?:<small>([\d.]+) steps/s</small>)?</td>"
)
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1] + "/.lock", "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(100)
"""


@contextmanager
def trained(folder: Path) -> Iterator[subprocess.Popen]:
    """Within, another process holds the lock of a run folder, as a training does."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def begin(folder: Path, seed: int = 0) -> Path:
    """A run of 20 steps that has logged nothing yet."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"name": "tiny", "variant": "none", "seed": seed, "trainer": {"max_steps": 20}}
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    return folder


def log(folder: Path, step: int, end: str = "\n") -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"steps": "updates made"}) + "\n" if not file.tell() else "")
        file.write(json.dumps({"step": step, "loss/total": 1 / step}) + end)


def finish(folder: Path) -> None:
    (folder / "summary.json").write_text("{}")


class Page:
    """What a watch publishes."""

    def __init__(self) -> None:
        self.rows: dict[str, list[str]] = {}  # run -> state, step, speed, time left
        self.text = ""
        self.seconds = 0.0
        self.found = Collected([], [], [])
        self.count = 0

    def publish(self, found: Collected, progress: str, seconds: float) -> None:
        rows = re.findall(ROW, progress)
        self.rows = {name: [state, step, speed, left] for name, step, state, left, speed in rows}
        self.found, self.text, self.seconds, self.count = found, progress, seconds, self.count + 1

    def until(self, condition: Callable[["Page"], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition(self):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.01)


@contextmanager
def watched(*paths: Path, patience: float = 0.5) -> Iterator[Page]:
    """Within, a thread watches; it has to come to its end afterwards."""
    page = Page()
    thread = threading.Thread(target=watch, args=(paths, 0.05, page.publish, patience), daemon=True)
    thread.start()
    yield page
    thread.join(30)
    assert not thread.is_alive()
    assert page.seconds == 0


def test_a_run_is_followed_from_before_it_begins_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    with watched(folder, patience=60) as page, trained(folder):
        page.until(lambda page: page.count > 0)
        begin(folder)
        page.until(lambda page: page.rows.get("one", [""])[:2] == ["running", "0 of 20"])
        log(folder, 2)
        page.until(lambda page: page.rows["one"][1] == "2 of 20")
        assert page.seconds == 0.05
        assert page.rows["one"][2:] == ["", "–"]
        time.sleep(0.2)
        log(folder, 4)
        page.until(lambda page: page.rows["one"][1] == "4 of 20")
        speed = float(page.rows["one"][2])
        assert 1 < speed < 10  # two steps in 0.2 seconds or a little more
        assert page.rows["one"][3] in {duration(16 / speed + more) for more in (-1, 0, 1)}  # it is rounded
        log(folder, 6, end="")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('\n{"step": 7, "loss/to')
        page.until(lambda page: page.rows["one"][1] == "6 of 20")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('tal": 0.1}\n')
        page.until(lambda page: page.rows["one"][1] == "7 of 20")
        assert page.found.problems == []
        finish(folder)
        page.until(lambda page: page.rows["one"][0] == "finished")
    assert page.rows["one"] == ["finished", "7 of 20", "", "–"]
    assert '<progress max="20" value="7"></progress>' in page.text


def test_one_run_finishes_and_the_other_is_killed(tmp_path: Path) -> None:
    first, second = begin(tmp_path / "first"), begin(tmp_path / "second", seed=1)
    log(first, 3)
    log(second, 5)
    with watched(first, second) as page, trained(first), trained(second) as killed:
        page.until(lambda page: [row[0] for row in page.rows.values()] == ["running", "running"])
        finish(first)
        page.until(lambda page: [row[0] for row in page.rows.values()] == ["finished", "running"])
        time.sleep(0.7)  # longer than its patience
        log(second, 6)
        page.until(lambda page: page.rows["second"][1] == "6 of 20")
        killed.kill()
        page.until(lambda page: [row[0] for row in page.rows.values()] == ["finished", "stopped"])
    assert page.found.problems == [f"{second} is not finished: it has logged up to step 6 of 20."]


def test_a_run_that_was_moved_away_is_no_longer_there(tmp_path: Path) -> None:
    log(begin(tmp_path / "one"), 3)
    with watched(tmp_path / "one", tmp_path / "two") as page, trained(tmp_path / "one"):
        page.until(lambda page: "one" in page.rows)
        (tmp_path / "one").rename(tmp_path / "elsewhere")
        page.until(lambda page: f"No longer there: {tmp_path}/one<" in page.text)
        assert f"Nothing is there yet: {tmp_path}/two<" in page.text
        (tmp_path / "elsewhere").rename(tmp_path / "one")
        page.until(lambda page: "No longer there" not in page.text)


def test_a_sweep_is_followed_into_its_next_run(tmp_path: Path) -> None:
    first = begin(tmp_path / "sweep" / "a")
    log(first, 20)
    with watched(tmp_path / "sweep", patience=2) as page:
        with trained(first):
            page.until(lambda page: list(page.rows) == ["a"])
            finish(first)
        page.until(lambda page: page.rows["a"][0] == "finished")
        (tmp_path / "sweep" / "refused").mkdir()
        (tmp_path / "sweep" / "refused" / "train.log").write_text("[2026][a][ERROR] - loss.rgb: x is no number.\n")
        page.until(lambda page: page.found.problems != [])
        assert page.found.problems == [f"{tmp_path}/sweep/refused was never trained: loss.rgb: x is no number."]
        with trained(tmp_path / "sweep" / "b"):
            second = begin(tmp_path / "sweep" / "b", seed=1)
            page.until(lambda page: page.rows.get("b", [""])[0] == "running")
            log(second, 1)
            page.until(lambda page: page.rows["b"][1] == "1 of 20")
            finish(second)
    assert {name: row[0] for name, row in page.rows.items()} == {"a": "finished", "b": "finished"}


def test_a_lock_is_asked_about_and_not_taken(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    assert not is_trained_in(folder)
    log(folder, 3)
    with trained(folder):
        assert is_trained_in(folder)
        with pytest.raises(UserError, match="is being trained in by"), alone_in(folder):
            pass
        assert collect([folder]).problems == [f"{folder} is being trained: it has logged up to step 3 of 20."]
    assert not is_trained_in(folder)
    assert collect([folder]).problems == [f"{folder} is not finished: it has logged up to step 3 of 20."]


def test_speed_is_of_the_recent_past_and_of_one_attempt() -> None:
    def run(step: float, at: float, state: str = RUNNING) -> Run:
        return Run("run", {"loss": [(step, 1.0)]}, folder=Path("run"), state=state, logged_at=at)

    speeds = Speeds()
    for step, at in ((10, 0.0), (20, 10.0), (20, 15.0), (40, 30.0)):
        speeds.look(run(step, at))
    assert speeds.of(run(40, 30.0)) == 1.0
    for hour in range(1, 4):  # a long pause is forgotten
        for minute in range(20):
            speeds.look(run(1000 * hour + 120 * minute, 3600.0 * hour + 60 * minute))
    assert speeds.of(run(0, 0)) == 2.0
    assert len(speeds.seen[Path("run")]) <= WINDOW / 60 + 2
    speeds.look(run(50, 20000.0))  # it goes on from an earlier step
    assert speeds.of(run(50, 20000.0)) == 0
    speeds.look(run(60, 20010.0))
    assert speeds.of(run(60, 20010.0)) == 1.0
    speeds.look(run(60, 20010.0, FINISHED))
    assert speeds.of(run(60, 20010.0, FINISHED)) == 0


def test_durations_have_two_units() -> None:
    found = [duration(seconds) for seconds in (-1, 0.4, 8, 130, 3600, 12000, 100000)]
    assert found == ["0 s", "0 s", "8 s", "2 min 10 s", "1 h 0 min", "3 h 20 min", "1 d 3 h"]


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_page_that_loads_no_more(number: int, status: int, tmp_path: Path) -> None:
    folder, out = begin(tmp_path / "run"), tmp_path / "page.html"
    log(folder, 3)
    with trained(folder):
        process = start("report", "--watch", folder, "--every", 0.1, "--out", out, log=tmp_path / "log")
        wait_until(lambda: out.is_file() and '<body data-renewed="0.1">' in out.read_text(), process)
        process.send_signal(number)
        assert process.wait(60) == status
    assert '<body data-renewed="0">' in out.read_text()
    said = (tmp_path / "log").read_text()
    assert said.startswith(f"{out} is renewed at most every 0.1 s while runs go on; Ctrl-C ends it.\n")
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.slow
def test_a_real_training_is_watched(photo_folder: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "page.html"
    places = [
        f"folder={folder}",
        *roots(photo_folder),
    ]
    watching = start("report", "--watch", folder, "--every", 0.1, "--out", out, log=tmp_path / "log")
    wait_until(lambda: out.is_file() and "Nothing is there yet" in out.read_text(), watching)
    training = start("train", *OVERRIDES, "trainer.max_steps=40", *places, log=tmp_path / "train.log")
    seen: set[tuple[str, ...]] = set()

    def done() -> bool:
        seen.update((state, step) for _, step, state, *_ in re.findall(ROW, out.read_text()))
        return training.poll() is not None

    wait_until(done, watching)
    assert training.wait(60) == 0, (tmp_path / "train.log").read_text()
    assert watching.wait(60) == 0, (tmp_path / "log").read_text()
    assert len([1 for state, _ in seen if state == "running"]) >= 3
    page = out.read_text()
    assert re.findall(ROW, page) == [("run", "40 of 40", "finished", "–", "")]
    assert '<body data-renewed="0">' in page
    assert "val/psnr_y" in page
    assert f"{folder} does not exist yet; waiting for it." in (tmp_path / "log").read_text()

"""The command line: help that is quick, and bad input in one sentence."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sspir
from sspir.__main__ import COMMANDS, main
from tests.pipelines import write_photo
from tests.runs import OVERRIDES, roots

HEAVY = ("torch", "diffusers", "transformers", "wandb", "pytorch_lightning", "hydra", "open_clip")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from sspir.__main__ import main\n"
        f"try:\n    status = main({arguments!r})\nexcept SystemExit as stop:\n    status = stop.code or 0\n"
        f"assert status == 0, status\nheavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "allowed = {'hydra'} if sys.argv[-1] in ('train', 'evaluate') else set()\n"
        "assert set(heavy) <= allowed, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, arguments[0]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > (0 if arguments == ["--version"] else 5)


def test_importing_the_package_is_light() -> None:
    code = f"import sys, sspir; assert not [m for m in {HEAVY!r} if m in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.thorough
def test_restoring_imports_no_part_of_training(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png", 8, 8)
    command = ["restore", f"{tmp_path}/a.png", "--out", f"{tmp_path}/out"]
    code = (
        f"import sys; from sspir.__main__ import main; assert main({command!r}) == 0\n"
        "found = {'pytorch_lightning', 'lightning_fabric', 'torchmetrics', 'wandb'} & sys.modules.keys()\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "experiments=tiny", "sede=5"], "sede"),
        (["train", "experiments=tinny"], "tinny"),
        (["train", *OVERRIDES, "dataset.train.root=/nowhere/photos"], "/nowhere/photos"),
        (["train", *OVERRIDES, "processor.channels=[4,8]"], "do not fit"),
        (["train", *OVERRIDES, "folder=afile"], "afile cannot be made, as a file is in its place"),
        (["train", *OVERRIDES, "callbacks=3"], "There is no callbacks 3; choose one of default, early_stopping."),
        (["train", *OVERRIDES, "+optimizer.lrr=1"], "There is no setting optimizer.lrr, but optimizer.lr."),
        (["evaluate", "run=/nowhere/run", "benchmark=skimage"], "/nowhere/run"),
        (["evaluate", "run=shipped/tiny", "captioner=null"], "There is no captioner null; choose one of endpoint, "),
        (["restore", "/nowhere/photo.jpg", "--weights", "/nowhere/run", "--out", "out"], "/nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    told = errors.strip().splitlines()[-1]
    assert told.startswith(f"sspir {arguments[0]}: ")
    assert "Error executing job" not in errors
    assert sentence in told
    assert "Traceback" not in told


@pytest.mark.thorough
def test_each_job_of_a_multirun_that_fails_is_told_at_once_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--multirun", *OVERRIDES, "dataset.train.root=/nowhere/a,/nowhere/b,/nowhere/a"]) == 2
    errors = capsys.readouterr().err
    assert "Error executing job" not in errors
    first, second = (f"dataset.train.root=/nowhere/{name}: /nowhere/{name} is not a folder" for name in "ab")
    at_once = [line for line in errors.splitlines() if line.startswith("Failed: ")]
    assert [line[8:].startswith(told) for line, told in zip(at_once, (first, second, first), strict=True)] == [True] * 3
    head, *lines = errors.strip().splitlines()[-3:]
    assert head == "sspir train: 3 runs failed:"
    assert lines[0].startswith(f"  {first}")
    assert lines[0].endswith(" (2 times)")
    assert lines[1].startswith(f"  {second}")


def test_the_log_of_a_run_says_why_it_ended(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *OVERRIDES, "dataset.train.root=/nowhere/photos", "folder=refused"]) == 2
    assert "[ERROR] - /nowhere/photos is not a folder" in Path("refused/train.log").read_text()
    Path("crashing.py").write_text(
        "from pytorch_lightning import Callback\n"
        "class Crash(Callback):\n    def on_fit_start(self, *_):\n        raise RuntimeError('the disk is gone')\n"
    )
    photos = roots(photo_folder)
    own = ["--path", ".", "train", *OVERRIDES, *photos, "folder=crashed", "+callbacks.crash={_target_: crashing.Crash}"]
    with pytest.raises(RuntimeError):
        main(own)
    assert Path("crashed/train.log").read_text().rstrip().endswith("RuntimeError: the disk is gone")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate"], "Give run=VALUE; there is no default."),
        (
            ["train", "experiments=tiny", "dataset=folder"],
            "Give dataset.train.roots=VALUE dataset.validation.photos.roots=VALUE; there is no default.",
        ),
    ],
)
def test_what_has_no_default_is_asked_for_at_once(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(f"sspir {arguments[0]}: {sentence}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from sspir import __main__ as sspir; sspir._run = print; raise SystemExit(sspir.main(['a word']))"
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sspir.commands.weights.run", interrupted)
    assert main(["weights", "get", "lpips"]) == 130
    assert capsys.readouterr().err == "\nsspir weights: stopped by Ctrl-C.\n"


def test_an_unknown_command_lists_the_known(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["retsore"])
    assert stop.value.code == 2
    assert "restore" in capsys.readouterr().err


def test_folders_without_photos_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["train", *OVERRIDES, f"dataset.train.root={tmp_path / 'empty'}"]) == 2
    assert "no image" in capsys.readouterr().err


def test_text_has_an_encoding_on_every_system() -> None:
    """What the linter does not see: it knows the type of few paths."""
    for path in Path(sspir.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
                assert "encoding" in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"

"""Files that are whole or not there."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.evaluation.curve import read_curve
from sspir.files import Journal, alone_in, read_json, replacing


@pytest.mark.parametrize("content", [b"[1]", b"null", b"3", b'{"a": 1', b"\xff", b""])
def test_json_that_holds_no_mapping_is_as_if_it_were_not_there(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "curve.json"
    assert read_json(file) == {}
    file.write_bytes(content)
    assert read_json(file) == read_curve(tmp_path) == {}
    file.write_bytes(b'{"points": []}')
    assert read_json(file) == read_curve(tmp_path) == {"points": []}


def test_two_that_write_one_file_at_once_both_succeed(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


def test_a_folder_is_one_process_alone_until_that_ends_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "out"
    hold = "import sys, time; from pathlib import Path; from sspir.files import alone_in\n"
    hold += "with alone_in(Path(sys.argv[1]), '--out'): print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", hold, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        refused = pytest.raises(UserError, match=f"Another process writes into {folder}; .* folder by --out")
        with refused, alone_in(folder, "--out"):
            pass
        with alone_in(tmp_path / "made", "--out"):  # not what stands above
            pass
        process.send_signal(signal.SIGKILL)
    with alone_in(folder, "--out"):
        pass
    assert not list(folder.iterdir())


def test_a_set_is_packed_by_one_process_at_a_time(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with alone_in(tmp_path, "--out"):
        assert main(["pack", str(photo_folder), "--out", str(tmp_path)]) == 2
        assert f"Another process writes into {tmp_path}" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
    assert main(["pack", str(photo_folder), "--out", str(tmp_path)]) == 0


def test_a_name_that_is_no_utf_8_leaves_a_journal_that_is(tmp_path: Path) -> None:
    name = os.fsdecode(b"lat\xe9.png")
    journal = Journal(tmp_path, "done.jsonl")
    for entry in ({"output": name, "source": name}, {"output": "été.png", "source": "été.jpg"}):
        journal.append(entry)
    lines = (tmp_path / "done.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["output"] for line in lines] == [name, "été.png"]
    assert "été" in lines[1]
    assert Journal(tmp_path, "done.jsonl").photos() == {name: name, "été.png": "été.jpg"}
    (tmp_path / "done.jsonl").write_bytes(json.dumps({"output": "lat?"}).encode().replace(b"?", b"\xe9") + b"\n")
    assert list(Journal(tmp_path, "done.jsonl").entries) == ["lat\udce9"]  # as it was written before

"""Bad photos, bad weights, full disks and signals: what `sspir restore` says, leaves and returns."""

import errno
import io
import json
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sspir.__main__ import main
from sspir.images.io import read_image
from tests.images.test_io import REFUSED
from tests.images.written import COLOUR, plain
from tests.pipelines import write_photo
from tests.processes import start, wait_until

QUICK = ("--steps", "1", "--captioner", "none")


def restore(*arguments: object) -> int:
    return main(["restore", *map(str, arguments), *QUICK])


def lines(out: Path) -> dict[str, dict]:
    told = [json.loads(line) for line in (out / "restore.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["output"]: line for line in told}


@pytest.mark.filterwarnings("ignore")
def test_every_photo_that_cannot_be_restored_is_named_and_the_others_are_done(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_photo(folder / "good.png", 8, 8)
    for name, (content, _) in REFUSED.items():
        (folder / f"{name}.png").write_bytes(content)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    os.mkfifo(folder / "pipe.png")
    assert restore(folder, "--out", out, "--weights", weights, "--dry-run") == 1
    assert restore(folder, "--out", out, "--weights", weights) == 1
    told, errors = lines(out), capsys.readouterr().err
    assert told["good.png"]["status"] == "done"
    failed = {output for output, line in told.items() if line["status"] == "failed"}
    assert failed == {f"{name}.png" for name in REFUSED} | {"gone.png", "circle.png", "pipe.png"}
    for output in failed:
        assert f"failed: {output}: {folder / output}" in errors
    assert {path.name for path in out.iterdir()} == {"good.png", "restore.jsonl"}
    assert restore(folder / "empty.png", "--out", tmp_path / "alone", "--weights", weights) == 2


def test_a_name_that_is_no_text_is_told_in_escapes(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    write_photo(tmp_path / "a.png", 8, 8).rename(named)
    for more in (["--dry-run"], []):
        assert restore(named, "--out", tmp_path / "out", "--weights", weights, *more) == 0
    assert "caf\\udce9.png, 8 x 8 -> " in capsys.readouterr().out
    assert (tmp_path / "out" / named.name).is_file()


def test_odd_but_good_photos_are_restored(tmp_path: Path, weights: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    small = Image.fromarray(COLOUR[:8, :8])
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", icc_profile=b"no profile at all")
    (folder / "profile.jpg").write_bytes(buffer.getvalue())
    (folder / "jpeg in truth.png").write_bytes(plain("JPEG"))
    (folder / "junk behind.jpg").write_bytes(plain("JPEG") + b"\0\1junk" * 99)
    for name, value in (("black", 0), ("white", 255)):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / f"{name}.png")
    small.save(folder / "two\nlines.png")
    small.save(folder / f"{'long' * 62}.png")  # 252 bytes; 255 is the limit of most disks
    Image.fromarray(COLOUR[:1, :1]).save(folder / "point.png")
    Image.fromarray(np.resize(COLOUR, (1, 90, 3))).save(folder / "line.png")
    assert restore(folder, "--out", out, "--weights", weights) == 0
    told = lines(out)
    assert len(told) == 9
    for output, line in told.items():
        width, height = Image.open(folder / Path(output).with_suffix(Path(line["source"]).suffix)).size
        assert read_image(out / output).pixels.shape == (4 * height, 4 * width, 3)
    assert any("profile" in warning for warning in told["profile.png"]["warnings"])


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_process_that_is_told_to_stop_stops_and_goes_on(
    tmp_path: Path, weights: Path, number: signal.Signals
) -> None:
    for index in range(6):
        write_photo(tmp_path / "in" / f"{index}.png", 8, 8)
    out = tmp_path / "out"
    command = [tmp_path / "in", "--out", out, "--weights", weights]
    process = start("restore", *command, *QUICK)
    wait_until((out / "0.png").exists, process)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    done = {output for output, line in lines(out).items() if line["status"] == "done"}
    assert len(done) < 6
    assert done <= {path.name for path in out.glob("*.png")}
    assert not list(out.glob(".*"))
    before = {name: (out / name).stat().st_mtime_ns for name in done}
    assert restore(*command) == 0
    assert len(lines(out)) == 6
    assert all((out / name).stat().st_mtime_ns == time_ for name, time_ in before.items())


def test_a_full_disk_leaves_nothing_half_and_the_next_run_goes_on(tmp_path: Path, weights: Path) -> None:
    write_photo(tmp_path / "a.png", 40, 40)
    out = tmp_path / "out"
    # What the system says is that of a full disk
    leave_little_room = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4000, 4000))
    command = ["restore", tmp_path / "a.png", "--out", out, "--weights", weights, *QUICK]
    assert start(*command, prepare=leave_little_room).wait(120) == 2
    assert "cannot be written" in lines(out)["a.png"]["error"]
    assert {path.name for path in out.iterdir()} == {"restore.jsonl"}
    assert restore(tmp_path / "a.png", "--out", out, "--weights", weights) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("samples", [1, 2])
def test_a_full_disk_ends_it_and_the_next_run_makes_the_rest(
    samples: int, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_photo(tmp_path / "in" / f"{name}.png")
    out, write, tried = tmp_path / "out", Path.write_bytes, []

    def second_is_too_much(path: Path, data: bytes) -> int:
        tried.append(path)
        if path.name.startswith(".b.png" if samples == 1 else ".b.spread.npy"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    command = [tmp_path / "in", "--out", out, "--weights", weights, "--samples", samples, *QUICK]
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", second_is_too_much)
        assert restore(*command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not [path for path in tried if path.name.startswith(".c.")]
    assert {"restore.jsonl", "a.png"} <= {path.name for path in out.iterdir()}
    assert not (out / "b.png").exists()
    assert restore(*command) == 0
    assert "2 restored, 1 were done before, 0 failed" in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_is_refused_before_anything(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    write_photo(tmp_path / "a.png")
    assert restore(tmp_path / "a.png", "--out", tmp_path / "a.png" / "out", "--weights", weights) == 2
    assert "cannot be made" in capsys.readouterr().err


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/sspir-was-here",)


def cut(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def without(folder: Path) -> None:
    file = folder / "unet_pixel" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)


def without_words(folder: Path) -> None:
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file, {"format": "pt"})


def widened(folder: Path) -> None:
    file = folder / "refine" / "diffusion_pytorch_model.safetensors"
    save_file({key: torch.cat([value, value]) for key, value in load_file(file).items()}, file)


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def newer(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"block_out_channels"', '"block_widths"'))


def renamed(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("AttentionAdapter", "Popen"))


@pytest.mark.parametrize("spoil", [cut, without, without_words, widened, pickled, newer, renamed])
def test_broken_weights_are_refused_before_any_photo(
    tmp_path: Path, weights: Path, spoil: Callable[[Path], None], capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    spoil(folder)
    write_photo(tmp_path / "a.png")
    assert restore(tmp_path / "a.png", "--out", tmp_path / "out", "--weights", folder) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(folder) in sentence
    assert "broken" in sentence
    assert not list(tmp_path.glob("out/*.png"))
    assert not Path("/tmp/sspir-was-here").exists()

"""`sspir restore` with several models: folders of their own, and sheets that show them side by side."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sspir.__main__ import main
from sspir.commands.restore_flags import parser
from sspir.commands.restore_model import models_of
from sspir.images.io import read_image
from tests.peers.networks import rrdbnet_file
from tests.pipelines import write_photo


def lines(out: Path) -> list[dict]:
    told = [json.loads(line) for line in (out / "restore.jsonl").read_text().splitlines()]
    return [line for line in told if line["status"] != "begun"]


@pytest.mark.thorough
def test_a_diffusion_model_and_a_peer_side_by_side_and_once(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    rrdbnet_file(tmp_path / "rrdb.pth")
    for name, height, width in (("a", 12, 20), ("deep/b", 9, 14)):
        write_photo(tmp_path / "in" / f"{name}.png", height, width)
    out = tmp_path / "in" / "out"  # results are no photos, whichever model made them
    command = ["restore", f"{tmp_path}/in", "--out", str(out), "--captioner", "none", "--steps", "1"]
    command += ["--weights", str(weights), "--weights", f"{tmp_path}/rrdb.pth"]
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "pipeline: 2 would be restored" in told
    assert f"rrdb: {tmp_path}/in/a.png, 20 x 12 -> {out}/rrdb/a.png, 80 x 48" in told
    assert not out.exists()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "pipeline: 2 restored, 0 were done before, 0 failed" in told
    assert "rrdb: 2 restored" in told
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    pictures = {f"{model}/{name}.png" for model in ("pipeline", "rrdb", "sheets") for name in ("a", "deep/b")}
    assert files == pictures | {"pipeline/restore.jsonl", "rrdb/restore.jsonl", "sheets/sheets.jsonl"}
    assert [line["settings"].get("steps") for line in lines(out / "pipeline")] == [1, 1]
    assert [list(line["settings"]) for line in lines(out / "rrdb")] == [["tile"]] * 2
    sheet = read_image(out / "sheets" / "a.png").pixels
    assert sheet.shape[1] == 3 * 80 + 2 * 6  # given, and both
    for column, model in ((1, "pipeline"), (2, "rrdb")):
        shown = sheet[:, column * (80 + 6) :][:, :80]
        made = read_image(out / model / "a.png").pixels
        assert any((shown[top : top + 48] == made).all() for top in range(len(shown) - 47))
    before = (out / "sheets" / "a.png").stat().st_mtime_ns
    (out / "rrdb" / "deep" / "b.png").unlink()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "pipeline: 0 restored, 2 were done before" in told
    assert "rrdb: 1 restored, 1 were done before" in told
    assert (out / "sheets" / "a.png").stat().st_mtime_ns == before
    assert len((out / "sheets" / "sheets.jsonl").read_text().splitlines()) == 2 * 3


def test_models_of_different_scales_and_a_photo_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from spandrel.architectures.ESRGAN import ESRGAN

    rrdbnet_file(tmp_path / "four.pth")
    torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=2).state_dict(), tmp_path / "two.pth")
    write_photo(tmp_path / "in" / "a.png", 10, 8)
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    command = ["restore", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--format", "jpg"]
    command += ["--weights", f"{tmp_path}/four.pth", "--weights", f"{tmp_path}/two.pth"]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "four: failed: b.png: " in told.err
    assert "1 photo side by side" in told.out
    assert Image.open(tmp_path / "out" / "two" / "a.jpg").size == (16, 20)
    assert Image.open(tmp_path / "out" / "sheets" / "a.png").width == 3 * 32 + 2 * 6


def named(*weights: str) -> list[str]:
    flags = [part for name in weights for part in ("--weights", name)]
    return list(models_of(parser("").parse_args(["in", "--out", "out", *flags])))


def test_short_names_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    for name in ("a.pth", "x/a.pth", "sheets.pth", "B.pth", "b.pt"):
        rrdbnet_file(tmp_path / name)
    for folder in ("r/one/s0", "r/two/s0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model_index.json").touch()
    assert named("a.pth", "B.pth") == ["a", "B"]
    assert named("a.pth", "x/a.pth")[1] == "x-a.pth"
    assert named("B.pth", "b.pt") == ["B.pth", "b.pt"]
    assert named("r/one/s0", "r/two/s0") == ["one-s0", "two-s0"]
    assert named("a.pth", "sheets.pth") == ["a.pth", "sheets.pth"]
    assert named("shipped", "a.pth") == ["shipped", "a"]
    assert named("a.pth") == [""]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--weights", "x.pth"], "--weights x.pth is given twice"),
        (["--weights", "./x.pth"], "--weights x.pth is given twice"),
        (["--weights", "nowhere"], "nowhere is not there: name shipped or shipped/tiny"),
        (["--weights", "y.pth", "--out", "new.png"], "--out new.png is one picture, but there are 2 models"),
        (["--weights", "y.pth", "--steps", "4"], "--steps is for diffusion, which x.pth does without"),
    ],
)
def test_bad_requests_are_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    flags: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.png", 8, 8)
    for name in ("x", "y"):
        rrdbnet_file(tmp_path / f"{name}.pth")
    assert main(["restore", "a.png", "--out", "out", "--weights", "x.pth", *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_all_models_that_are_not_there_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_photo(tmp_path / "a.png", 8, 8)
    weights = ["--weights", str(tmp_path / "here"), "--weights", "shipped", "--weights", str(tmp_path / "there.pth")]
    assert main(["restore", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *weights]) == 2
    here, there = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'here'} is not there" in here
    assert str(tmp_path / "there.pth") in there


def test_photos_of_one_stem_have_sheets_of_their_own(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        write_photo(tmp_path / "in" / name, 8, 8)
    command = ["restore", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--format", "same"]
    for name in ("x", "y"):
        command += ["--weights", str(rrdbnet_file(tmp_path / f"{name}.pth"))]
    assert main(command) == 0
    sheets = sorted(path.name for path in (tmp_path / "out" / "sheets").glob("*.png"))
    assert sheets == ["a.jpg.png", "a.jpg.png.png", "a.png"]


@pytest.mark.thorough
def test_sheets_of_others_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_photo(tmp_path / "in" / "a.png", 8, 8)
    mine = write_photo(tmp_path / "out" / "sheets" / "a.png", 9, 9).read_bytes()
    command = ["restore", f"{tmp_path}/in", "--out", f"{tmp_path}/out"]
    for name in ("x", "y"):
        command += ["--weights", str(rrdbnet_file(tmp_path / f"{name}.pth"))]
    assert main(command) == 2
    assert "sheets/a.png exists and was not written by this command" in capsys.readouterr().err
    assert (tmp_path / "out" / "sheets" / "a.png").read_bytes() == mine
    (tmp_path / "out" / "sheets" / "sheets.jsonl").touch()  # of other sheets there
    write_photo(tmp_path / "in" / "b.png", 8, 8)
    assert main(command) == 1
    told = capsys.readouterr()
    assert "sheets/a.png exists and was not written by this command" in told.err
    assert "2 restored, 0 were done before, 0 failed" in told.out
    assert (tmp_path / "out" / "sheets" / "a.png").read_bytes() == mine
    assert (tmp_path / "out" / "sheets" / "b.png").exists()
    assert main([*command, "--skip-existing"]) == 0
    assert (tmp_path / "out" / "sheets" / "a.png").read_bytes() == mine
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "out" / "sheets" / "a.png").read_bytes() != mine


def test_what_is_left_of_another_photo_is_on_no_sheet_of_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for seed, folder in enumerate(("one", "two")):
        write_photo(tmp_path / folder / "a.png", 8, 8, seed=seed)
    write_photo(tmp_path / "two" / "b.png", 8, 8)
    command = ["--out", f"{tmp_path}/out", "--skip-existing"]
    for name in ("x", "y"):
        command += ["--weights", str(rrdbnet_file(tmp_path / f"{name}.pth"))]
    assert main(["restore", f"{tmp_path}/one", *command]) == 0
    before = (tmp_path / "out" / "sheets" / "a.png").read_bytes()
    assert main(["restore", f"{tmp_path}/two", *command]) == 0
    assert "1 restored, 1 were done before" in capsys.readouterr().out
    assert (tmp_path / "out" / "sheets" / "a.png").read_bytes() == before
    assert (tmp_path / "out" / "sheets" / "b.png").is_file()


def test_what_one_of_several_refuses_is_said_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_photo(tmp_path / "a.png", 8, 8)
    both = ["--weights", "shipped", "--weights", "shipped/tiny"]
    assert main(["restore", f"{tmp_path}/a.png", "--out", f"{tmp_path}/out", *both, "--samples", "2"]) == 2
    assert capsys.readouterr().err.startswith("sspir restore: shipped: --samples: This model adds no noise")
    assert main(["restore", f"{tmp_path}/a.png", "--out", f"{tmp_path}/out", "--steps", "4"]) == 2
    assert capsys.readouterr().err.startswith(
        "sspir restore: --steps: This model restores in one step and takes no steps"
    )
    single = ["restore", f"{tmp_path}/a.png", "--out", f"{tmp_path}/out"]
    assert main([*single, "--sampler", "ddim"]) == 2
    assert "--sampler ddim: This model restores in one step and takes no " in capsys.readouterr().err
    (tmp_path / "captioner.yaml").write_text("_target_: sspir.captioners.NoCaption")
    assert main([*single, "--weights", "shipped/tiny", "--sampler", f"{tmp_path}/captioner.yaml"]) == 2
    assert "is no sspir.sampling.Sampler; correct its _target_, or choose one of ddim" in capsys.readouterr().err


def test_what_only_one_of_several_has_a_use_for_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    given = ["--weights", f"{tmp_path}/run", "--weights", "shipped", "--checkpoint", "best", "--clip", "clip"]
    models = models_of(parser("").parse_args(["a.png", "--out", "out", *given]))
    assert {name: (model.checkpoint, model.clip) for name, model in models.items()} == {
        "run": ("best", None),
        "shipped": ("last", None),
    }

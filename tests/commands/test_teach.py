"""`sspir teach`, from the outside."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from sspir.__main__ import main
from sspir.data import Crop, RestorationDataModule, Shards, Taught
from sspir.data.loading import collate
from sspir.data.sample import Sample
from sspir.degradation import Degradation
from sspir.errors import UserError
from sspir.files import alone_in
from sspir.peers import SpandrelPeer
from tests.peers.networks import brighter, rrdbnet_file
from tests.processes import start, wait_until

COUNT = 23


def command(folder: Path, out: str, *changes: str) -> list[str]:
    """Small samples in shards of three or so, in batches that do not end where shards do."""
    given = ["--teacher", folder / "teacher.pth", "--photos", folder / "photos", "--out", folder / out, "--size", 32]
    return ["teach", *map(str, given), "--count", str(COUNT), "--batch", "4", "--shard-mb", "0.02", *changes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A folder with a teacher, photos (one of them broken), and what was taught without a stop."""
    folder = tmp_path_factory.mktemp("teach")
    rrdbnet_file(folder / "teacher.pth")
    shutil.copytree(photo_folder / "train", folder / "photos")
    (folder / "photos" / "broken.png").write_bytes(b"torn")
    assert main(command(folder, "whole")) == 1
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_sample_is_a_pair_and_what_the_teacher_makes_of_it(whole: Path) -> None:
    taught, teacher = Taught(whole / "whole"), SpandrelPeer(str(whole / "teacher.pth"))
    assert len(taught) == COUNT
    assert len(taught.shards) > 3
    assert max(path.stat().st_size for path in taught.shards) <= 20_000
    sample = taught[5]
    assert [tuple(sample[key].shape) for key in ("lq", "hq", "teacher")] == [(3, 8, 8), (3, 32, 32), (3, 32, 32)]
    assert (teacher.restore(sample["lq"][None])[0] - sample["teacher"]).abs().max() < 0.51 / 255
    photos = {path.name: Image.open(path).convert("RGB").tobytes() for path in (whole / "photos").glob("[0-9].png")}
    rows = [(each["hq"][:, 0] * 255).round().byte().T.contiguous().numpy().tobytes() for each in taught]
    native = sum(row in photos[each["id"]] for row, each in zip(rows, taught, strict=True))
    assert COUNT / 2 < native < COUNT  # crops at their native scale, but those that the camera's truth has softened
    assert {taught[index]["id"] for index in range(3)} <= set(photos)
    manifest = json.loads((whole / "whole" / "manifest.json").read_text())
    assert manifest["left_out"] == ["broken.png"]
    assert manifest["teacher"]["checksum"] == teacher.checksum
    assert str(whole) not in json.dumps(manifest)


def test_crops_mirrors_and_turns_are_those_of_all_three(whole: Path) -> None:
    plain, moved = Taught(whole / "whole"), Taught(whole / "whole", Crop(16, rotate=True))
    sample = plain[7]
    crops = {(y, x): {} for y in range(0, 17, 4) for x in range(0, 17, 4)}
    for (y, x), parts in crops.items():
        for key, scale in (("hq", 1), ("teacher", 1), ("lq", 4)):
            parts[key] = sample[key][:, y // scale : (y + 16) // scale, x // scale : (x + 16) // scale]
    seen = set()
    for seed in range(24):
        view = moved.view(7, seed)
        found = [
            (place, mirror, turns)
            for place, parts in crops.items()
            for mirror in (False, True)
            for turns in range(4)
            if all(
                torch.equal(torch.rot90(part.flip(2) if mirror else part, turns, (1, 2)), view[key])
                for key, part in parts.items()
            )
        ]
        assert len(found) == 1
        seen.add(found[0][1:])
    assert len(seen) > 5


def test_a_teachers_pictures_reach_the_batch(whole: Path) -> None:
    data = RestorationDataModule(Taught(whole / "whole", Crop(32)), None, Degradation([], 4), batch_size=2)
    batch = data.prepare(next(iter(data.train_dataloader())), training=True)
    assert [tuple(each.shape) for each in (batch.lq, batch.hq, batch.teacher)] == [(2, 3, 8, 8), *[(2, 3, 32, 32)] * 2]
    photo: Sample = {"id": "a", "hq": torch.rand(3, 16, 16), "lq": torch.rand(3, 4, 4), "caption": ""}
    with pytest.raises(UserError, match="with and without a teacher's picture"):
        collate([(photo, 0, []), ({**photo, "teacher": photo["hq"]}, 1, [])])


@pytest.mark.thorough
def test_killed_and_started_again_it_ends_with_the_same_files(whole: Path) -> None:
    out = whole / "broken"
    process = start(*command(whole, "broken"))
    wait_until(lambda: len(list(out.glob("shard-*.tar"))) >= 2, process)
    process.kill()
    process.wait(60)
    assert not (out / "manifest.json").exists()
    before = files(out)
    with alone_in(out, "--out"):
        assert main(command(whole, "broken")) == 2
    assert files(out) == before
    assert main(command(whole, "broken")) == 1
    assert files(out) == files(whole / "whole")
    assert main(command(whole, "broken")) == 1  # nothing is missing
    assert files(out) == files(whole / "whole")


@pytest.mark.thorough
def test_another_teacher_or_other_settings_are_refused(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({k: 2 * v for k, v in torch.load(whole / "teacher.pth").items()}, whole / "other.pth")
    before = files(whole / "whole")
    changes = {"teacher": whole / "other.pth", "seed": 1, "degradation": "light", "batch": 2, "size": 36}
    for name, value in changes.items():
        assert main(command(whole, "whole", f"--{name}", str(value))) == 2
        assert f"was begun with another {name}" in capsys.readouterr().err
    assert main(command(whole, "whole", "--precision", "bf16")) == 2
    assert "--precision bf16 is for realesrgan; leave it out for" in capsys.readouterr().err
    assert main(command(whole, "whole", "--size", "30")) == 2
    assert "no multiple of the teacher's scale 4" in capsys.readouterr().err
    assert files(whole / "whole") == before
    with pytest.raises(UserError, match=r"holds shards of a teacher's pictures, not of photos"):
        Shards(whole / "whole")
    (whole / "foreign").mkdir()
    (whole / "foreign" / "shard-000000.tar").write_bytes(b"another tool's")
    assert main(command(whole, "foreign")) == 2
    assert "of another set" in capsys.readouterr().err


def test_a_teacher_of_ones_own_with_other_settings_is_another(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(tmp_path))
    (tmp_path / "conf" / "peer").mkdir(parents=True)
    given = ["--teacher", "own", "--photos", f"{whole}/photos", "--out", f"{tmp_path}/out", "--size", "32"]
    for plus, status in ((0, 0), (0, 0), (0.5, 2)):
        brighter(tmp_path / "conf" / "peer" / "own.yaml", plus)
        assert main(["teach", *given, "--count", "1"]) == status
    assert "was begun with another teacher" in capsys.readouterr().err

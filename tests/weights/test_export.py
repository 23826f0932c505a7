"""Publishing a run, and the model that ships with the package."""

import shutil
from pathlib import Path

import pytest
import torch
from skimage import data

from sspir.__main__ import main
from sspir.errors import UserError
from sspir.files import alone_in
from sspir.images.io import read_image
from sspir.images.photo import to_tensor
from sspir.metrics.detail import GradientRatio
from sspir.metrics.psnr_ssim import psnr
from sspir.models.latent import upscale
from sspir.training.saved import MODELS, SHIPPED
from sspir.weights.export import card, export
from sspir.weights.load import load_pipeline
from tests.degradation.presets import preset
from tests.pipelines import write_photo
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    tiny_run(folder, "", "trainer.limit_val_batches=1")
    return folder


def test_an_exported_run_restores_as_the_run_does(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert main(["export", str(run), "--out", str(out)]) == 0
    lq = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_pipeline(path).restore(lq, ["a house"]).images for path in (run, out))
    assert (ours - theirs).abs().max() < 2e-3  # half precision on disk
    assert "ablation none, seed 0" in (out / "README.md").read_text()
    assert {path.suffix for path in out.rglob("*") if "model" in path.stem and path.is_file()} <= {
        ".safetensors",
        ".json",
    }
    assert main(["export", str(run), "--out", str(out)]) == 2  # it exists


def test_the_card_of_a_run_without_a_checkout_names_the_version(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.yaml", tmp_path)
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    (tmp_path / "environment.json").write_text('{"code": "", "packages": {"sspir": "0.1.0"}}')
    assert "- **code**: sspir 0.1.0\n" in card(tmp_path, "last")


def test_damaged_weights_are_refused_in_words(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    export(run, out)
    weights = out / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"diffusion_pytorch_model.safetensors is damaged"):
        load_pipeline(out)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_pipeline(out)


@pytest.mark.thorough
def test_an_export_touches_nothing_beside_it_and_leaves_nothing_half(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "model"
    beside = out.with_name(".model") / "notes.txt"
    beside.parent.mkdir(parents=True)
    beside.write_text("mine")
    monkeypatch.setattr("sspir.weights.export.card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run, out)
    assert [path.name for path in out.parent.iterdir()] == [".model"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (out.with_name(".model.part") / "left").mkdir(parents=True)  # by an export that was killed
    with alone_in(out.with_name(".model.part"), "--out"), pytest.raises(UserError, match="Another process writes"):
        export(run, out)
    export(run, "new/model")
    assert beside.read_text() == "mine"
    assert {path.name for path in out.parent.iterdir()} == {".model", "model"}
    assert out.stat().st_mode == beside.parent.stat().st_mode  # as open to others as any new folder


def test_what_is_no_run_is_not_exported(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "model")]) == 2


def test_the_command_restores_with_nothing_but_a_photo(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "photo.png")
    assert main(["restore", str(photo), "--out", str(tmp_path / "out")]) == 0
    assert read_image(tmp_path / "out" / "photo.png").pixels.shape == (96, 80, 3)


def test_the_models_that_come_along_improve_a_photo_they_never_saw() -> None:
    hq = to_tensor(data.astronaut())[..., 64:256, 128:320]
    lq = preset("light")(hq, [0])
    bicubic = upscale(lq, (192, 192))
    before, now = (load_pipeline(name).restore(lq, ["a portrait"]) for name in ("shipped/tiny", "shipped"))
    assert psnr(before.structure[0], hq) > psnr(bicubic, hq) + 0.3
    assert psnr(before.images, hq) > psnr(bicubic, hq)
    assert abs(psnr(before.structure[0], hq) - psnr(now.structure[0], hq)) < 0.05  # the same Processor
    assert psnr(now.images, hq) > psnr(bicubic, hq) - 1
    strength = GradientRatio()  # 1: as sharp as the truth
    unlike = [abs(1 - strength.score(images.clamp(0, 1), hq).item()) for images in (bicubic, before.images, now.images)]
    assert unlike[2] < unlike[1] < unlike[0]


def test_what_comes_along_is_small_and_the_older_model_is_there_by_name() -> None:
    for name in ("tiny", "small"):
        assert sum(path.stat().st_size for path in (MODELS / name).rglob("*.safetensors")) < 25e6
    assert SHIPPED == MODELS / "small"

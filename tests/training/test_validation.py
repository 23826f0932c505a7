"""Validation within training: it restores as users do, changes nothing that is trained, and never ends a run."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sspir.batch import Batch
from sspir.color import fix_colour
from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.metrics.psnr_ssim import MSSSIM, PSNR, SSIM
from sspir.metrics.structural import VIF
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import upscale
from sspir.training.checkpoint import load_checkpoint
from sspir.training.fit import train
from sspir.training.history import read_history
from sspir.training.module import RestorationModule
from sspir.training.run import METRICS, find_checkpoint
from sspir.training.validation import Validation
from tests.pipelines import photo, tiny_pipeline, write_photo
from tests.runs import roots, tiny_run
from tests.stable_diffusion import overrides, save_clip, save_stable_diffusion


def nan_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the denoiser overflow in half precision, outside training steps."""
    denoise = ControlledUNet.denoise

    def overflowing(self: ControlledUNet, *arguments: Any) -> Tensor:
        half = torch.is_autocast_enabled("cpu") or self.unet.dtype != torch.float32
        return denoise(self, *arguments) * (float("nan") if half and not torch.is_grad_enabled() else 1)

    monkeypatch.setattr(ControlledUNet, "denoise", overflowing)


def nan_where_dark(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    """Break the results of photos that are darker than a threshold, whatever the precision."""

    def broken(images: Tensor, reference: Tensor, *rest: Any) -> Tensor:
        dark = reference.mean(dim=(1, 2, 3), keepdim=True) < threshold
        return torch.where(dark, float("nan"), fix_colour(images, reference, *rest))

    monkeypatch.setattr("sspir.sampling.restoration.fix_colour", broken)


def watch_weights(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of parameters that a validation step replaced or changed."""
    step, changed = RestorationModule.validation_step, []

    def watched(self: RestorationModule, *arguments: Any) -> Any:
        before = {name: (parameter, parameter.detach().clone()) for name, parameter in self.named_parameters()}
        restored = step(self, *arguments)
        for name, parameter in self.named_parameters():
            same, value = before[name]
            if parameter is not same or parameter.dtype != value.dtype or not torch.equal(parameter, value):
                changed.append(name)
        assert torch.isfinite(restored.images).all()
        held = {id(parameter) for group in self.optimizers().param_groups for parameter in group["params"]}
        assert held == {id(p) for part in self.trainable().values() for p in part.parameters()}
        return restored

    monkeypatch.setattr(RestorationModule, "validation_step", watched)
    return changed


@pytest.mark.thorough
def test_a_picture_that_is_nan_in_half_precision_is_repaired_around_what_is_trained(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nan_in_half(monkeypatch)
    changed = watch_weights(monkeypatch)
    given = overrides(save_stable_diffusion(tmp_path / "sd"), save_clip(tmp_path / "clip"))
    places = roots(photo_folder)
    precision = ["trainer.precision=bf16-mixed", "backbone.dtype=bfloat16"]
    summary = train(
        compose_config("train", ["experiments=ssp_ir", f"folder={tmp_path}/run", *given, *places, *precision])
    )
    assert changed == []
    assert summary["step"] == 3
    assert summary["val/repaired"] == 1
    assert 0 < summary["val/psnr_y"] < 60
    assert "Validation image photos/0.png: the result in half precision was NaN" in caplog.text
    state = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in state["ema"].values())
    assert any(not torch.equal(value, state["ema"][key]) for key, value in state["state_dict"].items())


def test_a_picture_that_stays_broken_counts_as_failed_and_the_run_goes_on(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nan_where_dark(monkeypatch, 1.0)
    settings = ["trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.precision=bf16-mixed"]
    with pytest.raises(UserError, match=r"has made 2 steps, but its last val/psnr_y is nan"):
        tiny_run(tmp_path / "run", photo_folder, *settings)
    rows = [row for row in read_history(tmp_path / "run" / METRICS) if "val/failed" in row]
    assert [(row["step"], row["val/failed"]) for row in rows] == [(1, 2), (2, 2)]
    assert all(math.isnan(row["val/psnr_y"]) for row in rows)
    assert not any("bicubic/psnr_y" in row for row in rows)
    assert "0.png failed: The network's result holds NaN" in caplog.text


def test_in_a_batch_only_what_is_broken_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lq = torch.stack([photo(8, 8, seed=1) * 0.1, photo(8, 8, seed=2)])
    nan_where_dark(monkeypatch, 0.2)
    validation, names = Validation({"psnr_y": PSNR()}), ["dark.png", "light.png"]
    validation.enter("a")
    restored = validation.restore(tiny_pipeline(), lq, ["a", "b"], (32, 32), names)
    assert restored.captions == ["a", "b"]
    assert [bool(image.isfinite().all()) for image in restored.images] == [False, True]
    hq = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    validation.update({"val": restored.images, "bicubic": 1 - hq}, hq)
    numbers = validation.finish()
    assert numbers["val/psnr_y"] == PSNR()(restored.images[1:], hq[1:])
    assert numbers["bicubic/psnr_y"] == PSNR()(1 - hq[1:], hq[1:])
    assert numbers["val/failed"] == 1
    assert "dark.png failed" in caplog.text
    validation.enter("a")
    validation.update({"val": hq}, hq)
    assert validation.finish() == {"val/psnr_y": 80, "val/failed": 0}  # counted anew


def test_a_metric_that_does_not_take_the_pictures_is_named_with_the_way_out() -> None:
    validation, hq = Validation({"psnr_y": PSNR(), "structure": MSSSIM()}), torch.rand(1, 3, 64, 64)
    validation.enter("photos")
    told = r"set photos cannot be measured by structure, which ~metric.structure leaves out: .* at least 161 pixels"
    with pytest.raises(UserError, match=told):
        validation.update({"val": hq, "bicubic": hq}, hq)


def test_metrics_in_mixed_precision_are_those_of_the_pictures(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, shown = RestorationModule.validation_step, []

    def kept(self: RestorationModule, batch: Batch, *rest: Any) -> Any:
        restored = step(self, batch, *rest)
        rows = {"val": restored.images, "bicubic": batch.lq, "structure": restored.structure[0]}
        shown.append({row: (images.clone(), batch.hq.clone()) for row, images in rows.items()})
        return restored

    monkeypatch.setattr(RestorationModule, "validation_step", kept)
    changes = [
        "trainer.precision=bf16-mixed",
        "trainer.max_steps=2",
        "+metric.vif._target_=sspir.metrics.structural.VIF",
    ]
    summary = tiny_run(tmp_path / "run", photo_folder, *changes, "dataset.validation.photos.crop.size=48")
    measures = {"psnr_y": PSNR(), "vif": VIF(), "ssim_y": SSIM()}
    for row in ("val", "bicubic", "structure"):
        for name, metric in measures.items():
            values = [metric.score(upscale(images[row][0], (48, 48)), images[row][1]).item() for images in shown]
            assert summary[f"{row}/{name}"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_of_a_pipeline_in_autocast_the_denoiser_alone_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = []

    def predict(self: ControlledUNet, sample: Tensor, *_: Any) -> Tensor:
        halves.append(torch.is_autocast_enabled("cpu"))
        return 0.5 * sample

    monkeypatch.setattr(ControlledUNet, "predict", predict)
    pipeline = tiny_pipeline()
    for changes in ({"colour": "wavelet"}, {"tile": 8, "overlap": 2, "tile_tokens": "tile"}, {"region": 64}):
        settings = pipeline.settings(**changes)
        wanted = pipeline.restore(photo()[None], ["a"], sampler=settings)
        with torch.autocast("cpu", torch.bfloat16):
            restored = pipeline.restore(photo()[None], ["a"], sampler=settings)
        assert torch.equal(restored.images, wanted.images)
        assert all(map(torch.equal, restored.structure, wanted.structure))
    assert sorted(halves) == [False] * (len(halves) // 2) + [True] * (len(halves) // 2)


def another_set(folder: Path, name: str = "more") -> list[str]:
    """Settings of a second set, whose pictures have names of the first one's, and of each other."""
    for number, path in enumerate(("0.png", "a/0.png", "b/0.png", "b/0.jpg")):
        write_photo(folder / path, 32, 40, number)
    crop = "{_target_:sspir.data.Crop,size:32}"
    return [f"+dataset.validation={{{name}:{{_target_:sspir.data.ImageFolder,roots:{folder},crop:{crop}}}}}"]


@pytest.mark.thorough
def test_each_set_has_its_numbers_and_panels_and_the_mean_is_over_sets(photo_folder: Path, tmp_path: Path) -> None:
    changes = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    alone = tiny_run(tmp_path / "alone", photo_folder, *changes)
    sets = [*another_set(tmp_path / "set"), "logger=wandb", "monitor=more/psnr_y"]
    both = tiny_run(tmp_path / "both", photo_folder, *changes, *sets)
    for row in ("val", "bicubic", "structure"):
        for metric in ("psnr_y", "ssim_y"):
            first, second = (both[f"{row}/{name}/{metric}"] for name in ("photos", "more"))
            assert first == alone[f"{row}/{metric}"] != second
            assert both[f"{row}/{metric}"] == pytest.approx((first + second) / 2)
    best = load_checkpoint(find_checkpoint(tmp_path / "both", "best"))["callbacks"]
    (state,) = [state for key, state in best.items() if "val/more/psnr_y" in key]
    assert state["best_model_score"] == pytest.approx(both["val/more/psnr_y"])
    panels = {
        folder: sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        for folder in (tmp_path / "alone" / "panels", tmp_path / "both" / "panels")
    }
    names = ["more/0", "more/a/0", "more/b/0", "more/b/0.png", "photos/0", "photos/1"]
    assert list(panels.values()) == [[f"{n}-step0000002.png" for n in given] for given in (["0", "1"], names)]
    for _ in range(100):  # W&B's own process writes
        record = b"".join(path.read_bytes() for path in (tmp_path / "both" / "wandb").rglob("*.wandb"))
        if all(f"panels/{name}".encode() in record for name in names) and b"structure/more/ssim_y" in record:
            break
        time.sleep(0.1)
    else:
        pytest.fail("W&B lacks a panel or a number")


@pytest.mark.parametrize(
    ("name", "monitor", "sentence"),
    [
        ("more", "mor/psnr_y", "choose one of psnr_y, ssim_y, photos/psnr_y, photos/ssim_y, more/psnr_y, more/ssim_y"),
        ("a/b", "psnr_y", "The validation set a/b has a slash in its name"),
    ],
)
def test_what_cannot_be_monitored_is_refused(
    name: str, monitor: str, sentence: str, photo_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_run(tmp_path / "run", photo_folder, *another_set(tmp_path / "set", name), f"monitor={monitor}")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], None),  # with a copy of the photos
        (["sampler.steps=3", "trainer.limit_val_batches=1"], "differ in sampler, trainer.limit_val_batches."),
        pytest.param(["dataset.validation.photos.crop.size=16"], "in dataset.validation.", marks=pytest.mark.slow),
        pytest.param(["monitor=ssim_y"], "differ in monitor, metric.", marks=pytest.mark.slow),
    ],
)
def test_the_best_is_chosen_anew_under_another_validation(
    changes: list[str], said: str | None, photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = ["callbacks=early_stopping"]
    tiny_run(tmp_path, photo_folder, "trainer.max_steps=2", *stopping)
    last = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    for known in state["callbacks"].values():  # out of reach, and no patience left
        if known.get("monitor") == "val/psnr_y":
            known |= {"best_model_score": torch.tensor(99.0), "kth_value": torch.tensor(99.0)}
            known["best_k_models"] = dict.fromkeys(known["best_k_models"], torch.tensor(99.0))
        elif "wait_count" in known:
            known |= {"best_score": torch.tensor(99.0), "wait_count": 9}
    torch.save(state, last)
    photos = photo_folder if changes else shutil.copytree(photo_folder, tmp_path.with_name("copied"))
    tiny_run(tmp_path, photos, "trainer.max_steps=4", *stopping, *changes)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert (best["global_step"] > 2) is (said is not None)
    states = torch.load(last, weights_only=True)["callbacks"].values()
    assert any(known.get("wait_count", 99) < 2 for known in states) is (said is not None)
    assert "begin anew" not in caplog.text if said is None else said in caplog.text

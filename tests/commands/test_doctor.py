"""`sspir doctor`: one line per metric, and what to do for those that lack something."""

from itertools import islice, takewhile
from pathlib import Path

import pytest

from sspir.__main__ import main
from sspir.config.compose import compose_config
from sspir.doctor.needs import needs
from tests.needs import needs as needs_package
from tests.stable_diffusion import overrides, save_clip, save_stable_diffusion


def test_metrics_are_listed_with_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["doctor", "metrics"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ready    psnr_y" in lines
    assert "ready    niqe" in lines
    at = lines.index("missing  clipiqa")
    needs = [line for line in lines[at + 1 : at + 3] if line.strip().startswith("-")]
    assert any(f"{tmp_path}/hub/clip/RN50.pt" in need and "afeb0e10" in need for need in needs)


def test_unknown_topic_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "weather"]) == 2
    assert "metrics" in capsys.readouterr().err


def test_an_experiment_without_its_weights_names_them_and_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "ssp_ir", "backbone.path=/nowhere/sd15"]) == 1
    told = capsys.readouterr().out
    assert "/nowhere/sd15" in told
    assert "backbone.path" in told


@pytest.mark.thorough
def test_an_experiment_that_needs_nothing_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "tiny", "trainer.accumulate_grad_batches=3"]) == 0
    told = capsys.readouterr().out
    assert "missing" not in told
    assert "an optimizer step sees 48 images: 16 per device x 1 device(s) x 3 accumulated" in told
    for devices, count in (("[0,1,2]", 3), ("'2'", 2)):
        main(["doctor", "tiny", f"trainer.devices={devices}"])
        assert f"16 per device x {count} device(s)" in capsys.readouterr().out
    assert "M parameters are trained" in told
    assert (
        "dataset.train: the few photos inside scikit-image, for a try; set SSPIR_PHOTOS or dataset.train.root" in told
    )
    assert "a step of 16 images of 64 x 64 in bf16-mixed takes about" in told


@pytest.mark.thorough
def test_memory_is_that_of_a_share_where_processes_share_the_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for devices, whose in (("-1", "of the whole network"), ("4", "in each of 4 processes")):
        main(["doctor", "tiny", "trainer=fsdp", f"trainer.devices={devices}", "batch_size=1"])
        assert f"in bf16-mixed, {whose}, takes about" in capsys.readouterr().out


@pytest.mark.thorough
def test_an_experiment_says_what_it_lacks_and_how_large_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "ssp_ir", "trainer=cpu", "batch_size=64", "dataset.train.root=/missing/photos"]) == 1
    told = capsys.readouterr().out
    assert "(about 3.20 GiB in float32) into its folder unet, and set backbone.path to it" in told
    assert "997.80 M parameters are trained, 1369.42 M are frozen" in told
    assert "set dataset.train.root to your photos" in told
    assert "module.gradient_checkpointing" not in told  # it is on
    assert "a smaller batch_size with trainer.accumulate_grad_batches, callbacks.ema=null would take less" in told


@pytest.mark.slow
def test_one_step_needs_its_distance_and_room_for_its_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_package("peft", "lora")
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    given = [*overrides(save_stable_diffusion(tmp_path / "sd"), save_clip(tmp_path / "clip")), "sampler.steps=1"]
    assert main(["doctor", "ssp_ir_one_step", *given]) == 1
    assert "trainer.precision=32-true cannot take; set trainer.precision=bf16-mixed" in capsys.readouterr().out
    given.append("trainer.precision=bf16-mixed")
    assert main(["doctor", "ssp_ir_one_step", *given, "dataset.train.crop.size=96"]) == 1
    told = capsys.readouterr().out
    assert (
        "missing  objective.terms.lpips: lpips_vgg\n           - not here: get its weights once by: sspir weights get"
    ) in told
    assert "a step of 1 images of 96 x 96" in told  # whether the weights are here or not
    config = compose_config("train", ["experiments=ssp_ir_one_step", *given, "objective.terms.lpips.weight=0"])
    asked = [line for line, _ in takewhile(lambda each: "optimizer step" not in each[0], needs(config))]
    assert len(asked) > 5
    assert not [line for line in asked if "lpips" in line]  # what is switched off needs nothing


@pytest.mark.thorough
def test_what_judges_pictures_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path))
    lacking = ["discriminator@objective.adversary.network=efficientnet_lite0", "objective.adversary.weight=0.02"]
    lacking += ["objective.teacher=span", "objective.target=both"]

    def judges(*changes: str) -> dict[str, list[str]]:
        config = compose_config("train", ["experiments=tiny_one_step", *changes])
        found = takewhile(lambda each: "optimizer step" not in each[0], needs(config))
        return {
            line: lines for line, lines in found if line.startswith(("objective.a", "objective.teacher", "facebook"))
        }

    assert judges() == {}
    found = judges(*lacking)
    assert found.keys() == {"objective.adversary.network.encoder", "objective.teacher: span"}
    commands = ("sspir weights get efficientnet_lite0", "sspir weights get span")
    assert all(command in lines[0] for command, lines in zip(commands, found.values(), strict=True))
    (line,) = judges("objective.teacher=/none/x.pth").items()
    assert line[0] == "objective.teacher: /none/x.pth"
    assert "/none/x.pth" in line[1][0]
    dinov2 = judges("discriminator@objective.adversary.network=dinov2", "objective.adversary.weight=0.02")
    assert "copy config.json and its weights" in dinov2["facebook/dinov2-small"][0]


@pytest.mark.slow
def test_the_model_to_begin_with_is_looked_for() -> None:
    for init, advice in (("shipped", 0), ("runs/nowhere", 1)):
        config = compose_config("train", ["experiments=tiny_consistency", f"init={init}"])
        (lines,) = (lines for line, lines in islice(needs(config), 9) if line == f"init: {init}")
        assert len(lines) == advice


@pytest.mark.thorough
def test_pairs_to_be_named_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "finetune_pairs", f"dataset.photos.roots={tmp_path}/none"]) == 1
    told = capsys.readouterr().out
    assert "not set: name your photos by dataset.pairs.lq" in told
    assert "not here: set dataset.photos.roots to your photos" in told


@pytest.mark.slow
def test_folders_are_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = overrides(save_stable_diffusion(tmp_path / "sd"), save_clip(tmp_path / "clip"))
    assert main(["doctor", "ssp_ir", *given, "module.gradient_checkpointing=false"]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path}/sd/unet (0." in told
    assert f"{tmp_path}/sd/scheduler" in told
    (tmp_path / "sd" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    config = compose_config("train", ["experiments=ssp_ir", *given])
    (missing,) = [line for _, lines in islice(needs(config), 3) for line in lines]
    assert f"{tmp_path}/sd/vae lacks config.json and its weights" in missing


def test_a_shape_that_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "ssp_ir", "backbone.path=someone/something"]) == 1
    assert "someone/something (backbone.path) is not here, and its shape is not known" in capsys.readouterr().out

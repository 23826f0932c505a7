"""`logger=tensorboard`, read back by TensorBoard's own reader."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning_utilities.core.rank_zero import rank_zero_only
from PIL import Image

from sspir.__main__ import main
from sspir.training import TensorBoardLogger
from sspir.training.history import read_history
from tests.needs import needs
from tests.runs import OVERRIDES, roots, tiny_config, tiny_run

LONGER = ("logger=tensorboard", "schedule.num_training_steps=6")


def read(run: Path) -> Any:
    reader = needs("tensorboard.backend.event_processing.event_accumulator", "tensorboard")
    return reader.EventAccumulator(str(run / "tensorboard"), {reader.TENSORS: 0, reader.IMAGES: 0}).Reload()


def curves(run: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value; a step that is shown twice fails, but for `epoch`, which comes with every line."""
    events = read(run)
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for tag, points in found.items() if tag != "epoch")
    return {tag: dict(points) for tag, points in found.items()}


def recorded(run: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for line in read_history(run / "metrics.jsonl"):
        for name in line.keys() - {"step"}:
            found.setdefault(name, {})[line["step"]] = pytest.approx(line[name], rel=1e-5)
    return found


@pytest.mark.thorough
def test_a_run_is_read_back_with_steps_configuration_and_pictures(photo_folder: Path, tmp_path: Path) -> None:
    needs("tensorboard", "tensorboard")
    run = tmp_path / "run"
    tiny_run(run, photo_folder, "logger=tensorboard")
    assert curves(run) == recorded(run)
    assert {"loss/total", "val/psnr_y", "bicubic/psnr_y", "lr-AdamW"} <= curves(run).keys()
    events = read(run)
    (text,) = events.Tensors("configuration/text_summary")
    assert "max_steps: 4\n" in text.tensor_proto.string_val[0].decode()
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    said = {tag: HParamsPluginData.FromString(data) for tag, data in events.PluginTagToContent("hparams").items()}
    settings = said["_hparams_/session_start_info"].session_start_info.hparams
    assert settings["optimizer.betas.0"].number_value == 0.9
    assert settings["module.loss.rgb"].number_value == settings["loss.rgb"].number_value > 0
    assert settings["ablations"].string_value == "{}"
    (metric,) = said["_hparams_/experiment"].experiment.metric_infos
    assert metric.name.tag == "val/psnr_y"
    for name in ("0", "1"):
        pictures = events.Images(f"panels/{name}")
        assert [picture.step for picture in pictures] == [2, 4]
        file = run / "panels" / f"{name}-step0000004.png"
        shown = Image.open(io.BytesIO(pictures[-1].encoded_image_string))
        assert np.array_equal(np.asarray(shown), np.asarray(Image.open(file)))


@pytest.mark.slow
def test_a_run_that_goes_on_hides_the_steps_it_makes_again(photo_folder: Path, tmp_path: Path) -> None:
    needs("tensorboard", "tensorboard")
    run = tmp_path / "run"
    tiny_run(run, photo_folder, *LONGER, "keep_every=2")
    first = curves(run)
    tiny_run(run, photo_folder, *LONGER, "trainer.max_steps=6", "resume=step-2", "trainer.log_every_n_steps=2")
    assert set(first["loss/total"]) == {1, 2, 3, 4}
    assert set(curves(run)["loss/total"]) == {1, 2, 4, 6}
    assert curves(run) == recorded(run)
    texts = read(run).Tensors("configuration/text_summary")
    assert [(text.step, b"max_steps: 6" in text.tensor_proto.string_val[0]) for text in texts] == [
        (0, False),
        (2, True),
    ]
    tiny_run(run, photo_folder, "logger=tensorboard", "resume=never")  # sets the earlier curves aside, too
    assert set(curves(run)["loss/total"]) == {1, 2, 3, 4}
    assert set(curves(run / "replaced" / "2")["loss/total"]) == {1, 2, 4, 6}


def test_our_own_record_comes_first_beside_any_others(tmp_path: Path) -> None:
    for choice in ("tensorboard", "[wandb,tensorboard]", "[tensorboard,wandb]"):
        loggers = tiny_config(tmp_path, tmp_path, f"logger={choice}").logger
        assert next(iter(loggers)) == "jsonl"
        assert set(loggers) == {"jsonl", *choice.strip("[]").split(",")}


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("tensorboard", "tensorboard")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TensorBoardLogger(str(tmp_path))
    logger.log_hyperparams({"monitor": "psnr_y"})
    logger.log_metrics({"loss/total": 1.0}, 1)
    logger.log_image("panels/0", [Image.new("RGB", (8, 8))], 1)
    logger.finalize("success")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_sentence(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as Python says that there is none
    monkeypatch.chdir(tmp_path)
    places = [f"folder={tmp_path}/run", *roots(photo_folder)]
    assert main(["train", *OVERRIDES, *places, "logger=tensorboard"]) == 2
    assert "needs the package tensorboard: pip install 'sspir[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

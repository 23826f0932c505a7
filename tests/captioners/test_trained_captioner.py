"""The captioner that a run was trained with, when the run is used."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from sspir.__main__ import main
from sspir.captioners.base import Captioner, CaptionerUnavailableError, Images, NoCaption
from sspir.captioners.vision_language import VisionLanguageCaptioner
from sspir.config.compose import compose_config
from sspir.evaluation.evaluate import evaluate
from sspir.weights.export import export
from sspir.weights.load import load_pipeline
from tests.captioners.models import save_llava
from tests.pipelines import write_photo
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A run whose captioner is a model, in `llava` beside it."""
    root = tmp_path_factory.mktemp("captioner")
    words = ["captioner=llava", f"captioner.path={save_llava(root / 'llava')}", "captioner.max_new_tokens=4"]
    tiny_run(root / "run", photo_folder, "trainer.max_steps=1", "trainer.val_check_interval=1", *words)
    return root / "run"


class Elsewhere(Captioner):
    """Comes from no module of the package."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        return [self.word] * len(images)


class MeasuredCaptioner(Elsewhere):
    """Has the name of one of sspir's, which needs no weights."""


class Unnamed(Elsewhere):
    """Tells its word, but not what it is."""

    def provenance(self) -> dict[str, str]:
        return {"word": self.word}


def with_captioner(run: Path, folder: Path, node: dict[str, object]) -> Path:
    """A copy of a run that was trained with another captioner."""
    shutil.copytree(run, folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.captioner = config.module.captioner = node
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said about the captioner."""
    return [each.getMessage() for each in caplog.records if each.name == "sspir.weights.load"]


def test_a_run_comes_back_with_its_captioner_and_no_weights_before_they_are_needed(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(Path(__file__).parents[2]))
    captioner = load_pipeline(run).captioner
    assert isinstance(captioner, VisionLanguageCaptioner)
    assert captioner._loaded is None
    assert captioner.max_new_tokens == 4
    node = {"_target_": "tests.captioners.test_trained_captioner.Elsewhere", "word": "a tree"}
    pipeline = load_pipeline(with_captioner(run, tmp_path / "run", node))
    assert pipeline(torch.rand(3, 8, 8), steps=1).captions == ["a tree"]
    assert not warnings(caplog)


def words(images: Images, known: Sequence[str]) -> list[str]:
    """A captioner that is a mere function."""
    return ["a tree"] * len(images)


@pytest.mark.thorough
def test_a_function_is_named_where_an_export_lacks_it(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(Path(__file__).parents[2]))
    name = "tests.captioners.test_trained_captioner.words"
    trained = with_captioner(run, tmp_path / "run", {"_target_": name, "_partial_": True})
    assert load_pipeline(trained).captioner.provenance() == {"captioner": name}
    assert not warnings(caplog)
    export(trained, tmp_path / "exported")
    load_pipeline(tmp_path / "exported")
    (said,) = warnings(caplog)
    assert f"was trained with captions by {name}, which does not come with it" in said


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [MeasuredCaptioner, Unnamed])
def test_ones_own_captioner_is_named_by_its_class_and_never_taken_for_another(
    kind: type, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(Path(__file__).parents[2]))
    name = f"{__name__}.{kind.__name__}"
    trained = with_captioner(run, tmp_path / "run", {"_target_": name, "word": "a tree"})
    assert isinstance(load_pipeline(trained).captioner, Elsewhere)
    assert not warnings(caplog)
    export(trained, tmp_path / "exported")
    assert isinstance(load_pipeline(tmp_path / "exported").captioner, NoCaption)
    (said,) = warnings(caplog)
    assert f"was trained with captions by {name}, which does not come with it" in said


def test_photos_are_sent_to_no_machine_that_a_record_names(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = "sspir.captioners.endpoint.EndpointCaptioner"
    folder = with_captioner(run, tmp_path / "run", {"_target_": target, "url": "http://127.0.0.1:9/v1", "model": "a"})
    assert isinstance(load_pipeline(folder).captioner, NoCaption)
    (said,) = warnings(caplog)
    assert "EndpointCaptioner" in said
    assert "--captioner" in said


@pytest.mark.thorough
def test_an_exported_pipeline_says_that_its_captioner_stayed_behind(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export(run, tmp_path / "model")
    photo = write_photo(tmp_path / "photo.png", 8, 8)
    command = ["restore", str(photo), "--weights", str(tmp_path / "model"), "--steps", "1"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    (said,) = warnings(caplog)
    assert "VisionLanguageCaptioner" in said
    assert "--captioner" in said
    assert main([*command, "--captioner", "measured", "--out", str(tmp_path / "b")]) == 0
    assert warnings(caplog) == [said]
    told = json.loads((tmp_path / "b" / "restore.jsonl").read_text().splitlines()[-1])
    assert told["caption"].startswith("a ")


@pytest.mark.thorough
def test_an_evaluation_asks_the_captioner_of_the_run_and_stops_where_it_cannot(
    run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    def config(out: str, *changes: str) -> DictConfig:
        photos = ["benchmark=set5", f"benchmark.photos.roots={photo_folder / 'val'}", "metric=fast", "limit=1"]
        return compose_config("evaluate", [f"run={run}", f"out={tmp_path / out}", "wandb=null", *photos, *changes])

    summary = evaluate(config("own"))
    assert summary["evaluation"]["inputs"]["captioner"]["model"] == str(run.parent / "llava")
    (caption,) = json.loads((tmp_path / "own" / "captions.json").read_text()).values()
    assert caption
    assert evaluate(config("other", "captioner=measured"))["evaluation"]["settings"]["captioner"] == "measured"
    (other,) = json.loads((tmp_path / "other" / "captions.json").read_text()).values()
    assert other.startswith("a ")
    assert other != caption
    (run.parent / "llava").rename(run.parent / "moved")
    try:
        with pytest.raises(CaptionerUnavailableError, match="llava"):
            evaluate(config("missing"))
    finally:
        (run.parent / "moved").rename(run.parent / "llava")
    assert not (tmp_path / "missing" / "summary.json").exists()

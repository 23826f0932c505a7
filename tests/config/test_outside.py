"""Code and configurations of people's own, outside of the package, through every command."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from sspir.__main__ import main
from sspir.config.build import build
from sspir.config.compose import told
from sspir.config.outside import activate
from sspir.errors import UserError
from sspir.sampling import Sampler
from sspir.weights.load import load_pipeline
from tests.runs import OVERRIDES

OWN = Path(__file__).parents[2] / "examples" / "own"
BEFORE = Path(__file__).parents[1] / "before" / "own"  # what stood there before rooms were built
SMALL = [each for each in OVERRIDES if not each.startswith("experiments=")]


@pytest.fixture(scope="module", autouse=True)
def undone() -> Iterator[None]:
    """`--path` stays in force for the process; here until the last test."""
    path, current = list(sys.path), Path.cwd()
    yield
    os.environ.pop("SSPIR_PATH", None)
    os.chdir(current)
    sys.path[:] = path
    for name in ("own", "plain"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the template, far from the checkout."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(OWN, place / "mine")
    return place


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def run(place: Path, photo_folder: Path) -> str:
    """A run of `experiments=own`, made by the command."""
    folders = [f"dataset.train.folder={photo_folder}/train", f"dataset.validation.photos.folder={photo_folder}/val"]
    os.chdir(place)
    train = ["train", "experiments=own", *SMALL, *folders, "trainer.max_steps=2"]
    assert main(["--path", "mine", *train]) == 0
    return "runs/own/none-s0"


@pytest.fixture(scope="module")
def exported(run: str) -> str:
    assert main(["export", run, "--out", "exported", "--dtype", "float32"]) == 0
    return "exported"


def test_a_run_is_trained_and_validated(run: str) -> None:
    summary = json.loads(Path(run, "summary.json").read_text())
    assert summary["step"] == 2
    assert 0 < summary["val/worst_pixel"] <= 1


@pytest.mark.thorough
def test_it_is_evaluated_and_restores_from_the_run_and_from_its_export(
    run: str, exported: str, photo_folder: Path
) -> None:
    photos = ["benchmark=photos", f"benchmark.photos.root={photo_folder}", "degradation@benchmark.degradation=vignette"]
    assert main(["evaluate", f"run={run}", *photos, "metric=[fast,worst_pixel]", "limit=1", "out=measured"]) == 0
    assert float(rows("measured")[0]["worst_pixel"]) > 0
    restore = ["restore", str(photo_folder / "val" / "0.png"), "--captioner", "brightness", "--steps", "1"]
    assert main([*restore, "--weights", run, "--out", "restored"]) == 0
    assert main([*restore, "--weights", exported, "--out", "from_export"]) == 0
    for out in ("restored", "from_export"):
        told = [json.loads(line) for line in Path(out, "restore.jsonl").read_text().splitlines()][-1]
        assert told["captioner"] == {"captioner": "own.Brightness", "settings": "898b2af0a36e3555"}  # of bright=0.5
        assert told["caption"] in ("a bright photo", "a dark photo")
    assert Path("restored/0.png").read_bytes() == Path("from_export/0.png").read_bytes()


@pytest.mark.thorough
def test_a_solver_of_ones_own_draws_from_each_photos_seed_and_stays_with_the_model(
    exported: str, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = ["restore", str(photo_folder / "val" / "0.png"), "--captioner", "brightness"]
    for out, model, seed in (("one", exported, "1"), ("again", "shipped/tiny", "1"), ("other", "shipped/tiny", "2")):
        for twice in ("", "-twice"):
            sampler = [] if model == exported else ["--sampler", "stochastic"]
            assert main([*restore, "--weights", model, "--seed", seed, "--out", f"{out}{twice}", *sampler]) == 0
        assert Path(f"{out}/0.png").read_bytes() == Path(f"{out}-twice/0.png").read_bytes()
        told = [json.loads(line) for line in Path(out, "restore.jsonl").read_text().splitlines()][-1]
        assert told["settings"]["scheduler"] == "own.Stochastic"
    assert Path("again/0.png").read_bytes() != Path("other/0.png").read_bytes()
    monkeypatch.delenv("SSPIR_PATH")
    with pytest.raises(UserError, match=r"scheduler=own.Stochastic is no class in a folder of SSPIR_PATH"):
        Sampler(scheduler="own.Stochastic")


@pytest.mark.thorough
def test_photos_are_captioned_degraded_and_compared(photo_folder: Path, capsys: pytest.CaptureFixture) -> None:
    photos = str(photo_folder / "val")
    own = ["--path", "mine"]
    assert main(["caption", photos, "--captioner", "brightness", "--set", "bright=0", "--out", "said.jsonl", *own]) == 0
    said = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in said] == ["a bright photo", "a bright photo"]
    assert said[0]["captioner"] == "own.Brightness"
    assert main([*own, "degrade", photos, "--preset", "vignette", "--out", "pairs"]) == 0
    drawn = json.loads(Path("pairs/degradations.jsonl").read_text().splitlines()[0])["steps"]
    assert drawn[0]["operation"] == "Vignette"
    folders = ["--hq", "pairs/hq", "--lq", "pairs/lq", "--method", "same=pairs/hq", "--out", "compared"]
    assert main(["compare", *own, *folders, "--metrics", "worst_pixel", "psnr_y", "--workers", "2"]) == 0
    assert {row["worst_pixel"] for row in rows("compared") if row["method"] == "same"} == {"0.0"}
    assert all(float(row["worst_pixel"]) > 0.05 for row in rows("compared") if row["method"] == "bicubic")
    assert main([*own, "doctor", "own", f"dataset.train.folder={photos}"]) == 1
    found = capsys.readouterr().out
    assert "M parameters are trained" in found
    assert "not set: name your photos by dataset.validation.photos.folder" in found


PLAIN = """
import torch
from torchmetrics import Metric

class Mean(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, images):
        return images.mean((2, 3)).repeat(1, self.dim)[:, None, : self.dim]

class Bright(Metric):
    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("last", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, preds):
        self.last = preds.mean()

    def compute(self):
        return self.last

def shout(images, known, word):
    return [word] * len(images)
"""


@pytest.mark.thorough
def test_plain_objects_of_a_second_folder_train_evaluate_and_restore(
    place: Path, photo_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for group, text in {
        "image_encoder": "_target_: plain.Mean\ndim: 32\n",
        "metric": "bright: {_target_: plain.Bright}\n",
        "captioner": "_target_: plain.shout\n_partial_: true\nword: A HOUSE\n",
    }.items():
        write(place / "more" / "conf" / group / "plain.yaml", text)
    write(place / "more" / "plain.py", PLAIN)
    folders = [f"dataset.train.folder={photo_folder}/train", f"dataset.validation.photos.folder={photo_folder}/val"]
    choices = ["image_encoder=plain", "metric=[fast,plain]", "captioner=plain", "name=plain"]
    train = ["train", "experiments=own", *SMALL, *folders, *choices, "trainer.max_steps=1", "data.passes=2"]
    assert main([*train, "--path", "mine", "--path=more"]) == 0
    run = "runs/plain/none-s0"
    summary = json.loads(Path(run, "summary.json").read_text())
    assert 0 < summary["val/bright"] < 1
    evaluate = ["evaluate", f"run={run}", "benchmark=photos", f"benchmark.photos.root={photo_folder}", "limit=1"]
    assert main([*evaluate, "metric=plain", "out=bright"]) == 0
    assert 0 < float(rows("bright")[0]["bright"]) < 1
    restore = ["restore", str(photo_folder / "val" / "0.png"), "--weights", run, "--steps", "1", "--out", "shouted"]
    assert main([*restore, "--captioner", "plain"]) == 0
    told = json.loads(Path("shouted/restore.jsonl").read_text().splitlines()[-1])
    assert (told["caption"], told["captioner"]) == (
        "A HOUSE",
        {"captioner": "plain.shout", "settings": "9d0e199d34c4353d"},
    )
    assert main(["export", run, "--out", "unsaved"]) == 2
    assert "The image encoder plain.Mean cannot be saved in a pipeline" in capsys.readouterr().err
    assert not Path("unsaved").exists()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process that was told of no folder."""
    monkeypatch.delenv("SSPIR_PATH", raising=False)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if Path(each).name not in ("mine", "more")])
    monkeypatch.delitem(sys.modules, "own", raising=False)


@pytest.mark.parametrize("weights", ["runs/own/none-s0", "exported"])
def test_its_classes_are_found_in_the_folders_alone(
    weights: str, exported: str, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((UserError, InstantiationException)) as refused:
        load_pipeline(weights)
    sentence = str(told(refused.value))
    assert "own.Patches" in sentence
    assert "SSPIR_PATH" in sentence
    monkeypatch.setenv("SSPIR_PATH", "mine")
    restored = load_pipeline(weights)(torch.rand(3, 8, 8), "a tree", steps=1)
    assert restored.images[0].size == (32, 32)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("restore a.png --out b --path gone", "There is no folder PLACE/gone, which SSPIR_PATH or --path names"),
        ("caption PHOTOS --captioner lost.yaml", "lost.Thing, the _target_ of the configuration, cannot be imported"),
        ("degrade PHOTOS --preset lost.yaml --out b", "in sspir, the installed packages and no folder of SSPIR_PATH"),
        (
            "train experiments=tiny metric.psnr_y._target_=lost.Thing",
            "lost.Thing, the _target_ of metric.psnr_y",
        ),
        ("train experiments=broken --path bad", "while parsing a flow sequence"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    arguments: str,
    sentence: str,
    place: Path,
    photo_folder: Path,
    alone: None,
    capsys: pytest.CaptureFixture,
) -> None:
    write(place / "lost.yaml", "_target_: lost.Thing\n")
    write(place / "bad" / "experiments" / "broken.yaml", "a: [1, 2\nb: }\n")
    assert main(arguments.replace("PHOTOS", str(photo_folder)).split()) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"sspir {arguments.split()[0]}: ")
    assert sentence.replace("PLACE", str(place)) in said


def test_a_module_that_two_folders_hold_is_told(place: Path, alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "more" / "own.py", "class Flip: ...\n")
    monkeypatch.setenv("SSPIR_PATH", os.pathsep.join(("mine", "more")))
    activate()
    with pytest.raises(UserError) as refused:
        build(OmegaConf.create({"_target_": "own.Flip"}))
    assert "the module own has no Flip. " in str(refused.value)
    assert f"{place / 'mine'} and {place / 'more'} each hold a module own, and the first counts" in str(refused.value)


def rows(folder: str) -> list[dict[str, str]]:
    with Path(folder, "per_image.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_folder_of_before_trains_as_it_is(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSPIR_PATH", raising=False)
    for name in ("own", "plain"):
        sys.modules.pop(name, None)
    folders = [f"dataset.train.folder={photo_folder}/train", f"dataset.validation.photos.folder={photo_folder}/val"]
    train = ["train", "experiments=own", *SMALL, *folders, "trainer.max_steps=1", "folder=old"]
    with pytest.warns(DeprecationWarning, match=r"sspir\.data\.cropped\.to_tensor is now"):
        assert main(["--path", str(BEFORE), *train]) == 0
    assert Path(sys.modules["own"].__file__).parent == BEFORE

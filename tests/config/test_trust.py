"""A stranger's run or pipeline is loaded without running what it names; one's own code stays free."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from sspir.__main__ import main
from sspir.config import outside
from sspir.config.compose import compose_config, config_root
from sspir.config.kinds import KINDS, fits, kind_of
from sspir.config.outside import is_own
from sspir.config.trust import check_record, targets
from sspir.errors import UserError
from sspir.evaluation.evaluate import evaluate
from sspir.training.checkpoint import LAST
from sspir.training.module import RestorationModule
from sspir.training.repeat import repetition
from sspir.training.run import CHECKPOINTS, COMPOSED, CONFIG
from sspir.training.saved import SHIPPED
from sspir.weights.export import export
from sspir.weights.load import load_pipeline
from tests.pipelines import write_photo
from tests.runs import tiny_run

METRIC = ("+metric.psnr._target_=torchmetrics.image.PeakSignalNoiseRatio", "+metric.psnr.data_range=1")
MINE = """
from shutil import copyfile
from diffusers import ModelMixin
from torch import nn
from sspir.models.block_dct import BlockDCT
from sspir.captioners.base import NoCaption
from sspir.encoders import CLIPImageEncoder

class Mine(NoCaption):
    pass

class MineDCT(BlockDCT):
    pass

class MineCLIP(CLIPImageEncoder):
    pass
"""


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.made), "w")


def planted(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file, and nodes that make it, by a place in a record for each."""
    made, code, file = folder / "made", folder / "hubconf.py", folder / "pickled.pt"
    code.write_text(f"from pathlib import Path\nPath({str(made)!r}).touch()\ndef net(): return 1\n")
    file.write_bytes(pickle.dumps(Pickled(made)))
    opened = {"_target_": "builtins.open", "file": str(file), "mode": "rb"}
    path = {"_target_": "pathlib.Path", "_args_": [str(made)]}
    return made, {
        "module.vae": {"_target_": "torch.load", "f": opened, "weights_only": False},
        "module.loss.fft": {"_target_": "torch.nn.modules.module.torch.load", "f": opened, "weights_only": False},
        "module.image_encoder": {
            "_target_": "torch.hub.load", "repo_or_dir": str(folder), "model": "net", "source": "local",
        },
        "module.captioner": {
            "_target_": "sspir.files.write_bytes", "path": path, "data": {"_target_": "builtins.bytes"},
        },
        "module.metrics.mine": {"_target_": "builtins.open", "_args_": [str(made), "w"]},
        "module.optimizer": {"_target_": "logging.FileHandler", "_recursive_": False, "filename": str(made)},
        "data.train": {"_target_": "urllib.request.urlretrieve", "url": code.as_uri(), "filename": str(made)},
        "data.degradation.operations": [{"_target_": "sqlite3.connect", "database": str(made)}],
        "callbacks.mine": {"_target_": "shutil.copyfile", "src": str(code), "dst": str(made)},
        "logger.mine": {"_target_": "sspir.training.run.os.mkdir", "path": str(made)},
        "trainer.plugins": [{"deep": {"_target_": "numpy.load", "file": str(file), "allow_pickle": True}}],
    }  # fmt: skip


PLACES = (
    "module.vae", "module.loss.fft", "module.image_encoder", "module.captioner", "module.metrics.mine",
    "module.optimizer", "data.train", "data.degradation.operations", "callbacks.mine", "logger.mine", "trainer.plugins",
)  # fmt: skip
OTHERS = {  # of packages that are known, but not what belongs there
    "module.captioner": "torch.nn.Identity",
    "module.vae": "sspir.captioners.folder.CaptionTable",
    "module.image_encoder": "open_clip.create_model",
    "module.text_encoder": "transformers.AutoModel.from_pretrained",
    "module.metrics.clip": "torchmetrics.multimodal.CLIPScore",
    "module.metrics.mean": "torch.nn.modules.module.torch.load",
    "module.backbone": "sspir.pretrained.load.load_autoencoder",
    "module.optimizer": "hydra.utils.get_object",
    "module.schedule": "torch.optim.lr_scheduler.types.FunctionType",
    "module.noise_schedule": "diffusers.DDPMScheduler.from_pretrained",
    "logger.wandb": "pytorch_lightning.loggers.WandbLogger",
    "callbacks.mine": "pytorch_lightning.callbacks.ModelCheckpoint.__init__",
    "module.refine": ["torch.nn.Identity"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "run"
    tiny_run(folder, photo_folder, *METRIC, "trainer.max_steps=2", "trainer.limit_val_batches=1")
    return folder


@pytest.fixture(scope="module")
def evaluation() -> DictConfig:
    return compose_config("evaluate", ["run=RUN", "benchmark=skimage", "wandb=null"])


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "pipeline"))
    (folder / "SHA256SUMS").unlink()
    return folder


def change(run: Path, key: str, value: Any) -> None:
    """Rewrite a setting of a record, which is one of before `composed.yaml` then."""
    (run / COMPOSED).unlink(missing_ok=True)
    record = yaml.safe_load((run / CONFIG).read_text())
    (run / CONFIG).write_text(yaml.safe_dump(changed(record, key, value)))


def changed(record: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return record | {first: changed(record.get(first, {}), rest, value) if rest else value}


def entrances(run: Path, config: DictConfig, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """Every way into a run folder."""
    photo = str(write_photo(tmp_path / "photo.png"))
    config.run, config.out = str(run), str(tmp_path / "evaluation")
    return {
        "from_run": lambda: RestorationModule.from_run(run),
        "load_pipeline": lambda: load_pipeline(run),
        "export": lambda: export(run, tmp_path / "exported"),
        "evaluate": lambda: evaluate(config),
        "restore": lambda: _main("restore", photo, "--weights", str(run), "--out", str(tmp_path / "out")),
        "train --from": lambda: _main("train", "--from", str(run), f"folder={tmp_path / 'again'}"),
    }


def _main(*arguments: str) -> None:
    if main(arguments) == 2:
        raise UserError("see what was printed")


@pytest.mark.parametrize(
    "place",
    [
        each if each in ("module.vae", "callbacks.mine") else pytest.param(each, marks=pytest.mark.thorough)
        for each in PLACES
    ],
)
def test_nothing_that_hydra_would_run_is_run_from_a_record(
    place: str, run: Path, evaluation: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made, nodes = planted(tmp_path)
    with suppress(InstantiationException):  # some fail when it is done
        instantiate(nodes[place])
    assert made.exists()
    made.rmdir() if made.is_dir() else made.unlink()

    change(run, place, nodes[place])
    for name, enter in entrances(run, evaluation, tmp_path).items():
        with pytest.raises(UserError) as refused:
            enter()
        told = str(refused.value) + capsys.readouterr().err
        assert not made.exists(), name
        assert f"its {place}" in told, name
        assert "does not belong there" in told, name


@pytest.mark.parametrize(("place", "target"), OTHERS.items())
def test_what_does_not_belong_at_a_place_is_refused(place: str, target: Any) -> None:
    record = changed({}, place, {"_target_": target, "_partial_": True})
    with pytest.raises(UserError, match=rf"its {place} names .*does not belong there"):
        check_record(record, Path("config.yaml"))


def test_an_old_checkpoint_s_schedule_runs_nothing(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    checkpoint = torch.load(run / CHECKPOINTS / LAST, weights_only=True)
    checkpoint["config"]["schedule"] = {"_target_": "builtins.open", "file": str(made), "mode": "w"}
    torch.save(checkpoint, run / CHECKPOINTS / LAST)
    with pytest.raises(UserError, match=r"its schedule names builtins\.open"):
        tiny_run(run, photo_folder, *METRIC)
    assert not made.exists()


def test_the_environment_is_not_read_for_a_record(
    run: Path, evaluation: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    change(run, "module.sampler.negative_caption", "${oc.env:HOME}")
    for name, enter in entrances(run, evaluation, tmp_path).items():
        with pytest.raises(UserError) as refused:
            enter()
        assert (
            "its module.sampler.negative_caption is ${oc.env:HOME}" in str(refused.value) + capsys.readouterr().err
        ), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("module.vae", "${oc.env:HOME}"),
        ("name", "${${variant}:HOME}"),
        ("variant", "${ oc.env:HOME}"),
        ("variant", "${oc.select:none,${oc.env:HOME}}"),
        ("module.vae", "${oc.select:vae.at${seed},{_target_: os.mkdir}}"),
        ("module.vae", "${oc.select:vae${sweep},x}"),
        ("data._target_", "sspir.data.${variant}"),
        ("data.${oc.env:HOME}", "x"),
    ],
)
def test_what_was_composed_refers_to_its_own_settings_alone(key: str, value: str, run: Path, tmp_path: Path) -> None:
    composed = yaml.safe_load((run / COMPOSED).read_text())
    assert composed["module"]["vae"] == "${vae}"
    (run / COMPOSED).write_text(yaml.safe_dump(changed(composed, key, value)))
    with pytest.raises(UserError, match="would be filled in from this machine"):
        repetition(run, [f"folder={tmp_path / 'again'}"])


def test_what_was_composed_is_checked_as_it_comes_out(run: Path, tmp_path: Path) -> None:
    composed = yaml.safe_load((run / COMPOSED).read_text())
    made, nodes = planted(tmp_path)
    for key, value in (
        ("vae", nodes["module.vae"]),
        ("callbacks.panels.folder", "${folder}/../.."),
        ("callbacks.panels.folder", composed["folder"]),  # inside as it was recorded, but not when that is repeated
    ):
        (run / COMPOSED).write_text(yaml.safe_dump(changed(composed, key, value)))
        with pytest.raises(UserError, match=f"its {key} "):
            repetition(run, [f"folder={tmp_path / 'again'}"])
    assert not made.exists()


def test_a_run_is_repeated_into_its_own_folder_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    change(run, "callbacks.panels.folder", str(tmp_path / "elsewhere"))
    assert main(["train", "--from", str(run), f"folder={tmp_path / 'again'}"]) == 2
    assert "its callbacks.panels.folder is" in capsys.readouterr().err
    change(run, "callbacks.panels.folder", f"{yaml.safe_load((run / CONFIG).read_text())['folder']}/../elsewhere")
    assert main(["train", "--from", str(run), f"folder={tmp_path / 'again'}"]) == 2
    load_pipeline(run)  # which writes nothing


def test_photos_are_sent_to_an_address_of_one_s_own_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"_target_": "sspir.captioners.EndpointCaptioner", "_args_": ["http://127.0.0.1:9/v1", "m"]}
    change(run, "module.captioner", told)
    again = ["train", "--from", str(run), f"folder={tmp_path / 'again'}"]
    assert main(again) == 2
    assert "its module.captioner would send the photos" in capsys.readouterr().err
    change(run, "module.captioner", {"_target_": told["_target_"], "url": "http://127.0.0.1:9/v1", "model": "m"})
    change(run, "captioner", {"_target_": told["_target_"], "url": "http://127.0.0.1:9/v1", "model": "m"})
    assert main(again) == 2
    assert "its captioner would send the photos" in capsys.readouterr().err
    trained = []
    monkeypatch.setattr("sspir.training.fit.train", lambda config, like: trained.append(config.module.captioner.url))
    assert main([*again, "captioner.url=http://127.0.0.1:8/v1"]) == 0
    assert trained == ["http://127.0.0.1:8/v1"]


def test_own_runs_load_old_ones_and_those_with_other_libraries_metrics(run: Path, tmp_path: Path) -> None:
    record = yaml.safe_load((run / CONFIG).read_text())
    for key in ("sweep", "keep_checkpoints", "resume", "monitor", "threads"):
        del record[key]
    (run / COMPOSED).unlink()
    (run / CONFIG).write_text(yaml.safe_dump(record))
    assert "psnr" in str(RestorationModule.from_run(run).validation.rows["val"].keys())
    assert main(["train", "--from", str(run), f"folder={tmp_path / 'again'}"]) == 0


@pytest.mark.parametrize(("part", "change_it"), [("text_encoder", "seed"), ("image_encoder", "seed"), ("vae", "std")])
def test_a_base_model_that_is_another_one_is_refused(part: str, change_it: str, run: Path) -> None:
    change(run, f"module.{part}.{change_it}", 5 if change_it == "seed" else [0.5] * 24)
    with pytest.raises(UserError, match=rf"with another {part}.*point {part}\.path"):
        load_pipeline(run)


def test_a_checkpoint_that_knows_no_base_models_is_taken(run: Path) -> None:
    checkpoint = torch.load(run / CHECKPOINTS / LAST, weights_only=True)
    del checkpoint["frozen"]
    torch.save(checkpoint, run / CHECKPOINTS / LAST)
    load_pipeline(run)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the user's, which Python finds."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("mine_of_mine", None)


def test_own_code_is_taken_from_the_folders_that_the_user_names(
    mine: Path, run: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(run, "module.captioner", {"_target_": "mine_of_mine.Mine"})
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps(index | {"vae": ["mine_of_mine", "MineDCT"]}))
    for folder in (run, pipeline):
        with pytest.raises(UserError, match="if it is your own code, name its folder in SSPIR_PATH"):
            load_pipeline(folder)
    assert "mine_of_mine" not in sys.modules
    monkeypatch.setenv(outside.VARIABLE, str(mine))
    assert type(RestorationModule.from_run(run).captioner).__name__ == "Mine"
    assert type(load_pipeline(pipeline).vae).__name__ == "MineDCT"
    assert fits("mine_of_mine.MineCLIP.tiny", KINDS["image_encoder"])  # which ours would be taken for, too
    assert not fits("mine_of_mine.MineCLIP.from_pretrained", KINDS["image_encoder"])  # which may unpickle
    assert not fits("mine_of_mine.MineCLIP.tiny", KINDS["captioner"])
    for other in ("mine_of_mine.copyfile", "mine_of_mine.nn.Identity"):  # found there, but not written there
        change(run, "module.captioner", {"_target_": other})
        with pytest.raises(UserError, match="does not belong there"):
            load_pipeline(run)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("unet/custom.py", "", "can run code"),
        ("vae/diffusion_pytorch_model.bin", "", "can run code"),
        ("text_encoder/config.json", '{"auto_map": {}}', "asks for code by its auto_map"),
        ("tokenizer/tokenizer_config.json", '{"a": {"auto\\u005fmap": []}}', "asks for code by its auto_map"),
        ("model_index.json", {"vae": ["os", "system"]}, r"its vae is os\.system"),
        ("model_index.json", {"vae": ["sspir.training.fit", "Path"]}, r"its vae is sspir\.training\.fit\.Path"),
        ("model_index.json", {"tokenizer": ["transformers", "AutoTokenizer"]}, "its tokenizer is"),
        ("model_index.json", {"unet": ["stable_diffusion", "StableDiffusionSafetyChecker"]}, "its unet is"),
        ("model_index.json", {"unet": ["custom", "Net"]}, "its unet is"),
    ],
)
def test_a_saved_pipeline_brings_no_code(pipeline: Path, name: str, content: Any, sentence: str) -> None:
    load_pipeline(pipeline)
    if isinstance(content, dict):
        content = json.dumps(json.loads((pipeline / name).read_text()) | content)
    (pipeline / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        load_pipeline(pipeline)


def test_everything_that_is_shipped_fits_and_no_function_is_listed_that_is_not_used() -> None:
    used = set()
    for file in [*(config_root() / "conf").rglob("*.yaml"), *(config_root() / "experiments").glob("*.yaml")]:
        group = file.parent.name
        if group in ("benchmark", "peer", "public", "sweeper") or file.stem == "evaluate":  # never in a record
            continue
        whole = "@package _global_" in file.read_text() or group in ("conf", "experiments")
        for key, target in targets(OmegaConf.load(file)):
            place = key if whole else (group, *key)
            assert fits(target, kind_of(place)), (file, place, target)
            used.add(target)
    functions = {function for kind in KINDS.values() for function in kind.functions}
    assert functions == {target for target in used if not isinstance(get_object(target), type)}


def test_what_python_brings_along_is_not_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PATH", ".")
    assert not any(is_own(module) for module in ("os", "io", "posix", "builtins", "runpy", "torch"))


def test_what_is_linked_into_a_folder_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library" / "linked_one").mkdir(parents=True)
    (tmp_path / "library" / "linked_one" / "__init__.py").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked_one").symlink_to(tmp_path / "library" / "linked_one")
    monkeypatch.setenv("SSPIR_PATH", str(tmp_path / "mine"))
    monkeypatch.syspath_prepend(tmp_path / "library")
    assert not is_own("linked_one")  # as Python finds it where it really is
    monkeypatch.syspath_prepend(tmp_path / "mine")
    assert is_own("linked_one")

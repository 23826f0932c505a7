"""Every configuration that is shipped composes and fits what it describes."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from sspir.config.build import build
from sspir.config.compose import compose_config, config_root, load_choice, told
from sspir.errors import UserError
from sspir.pretrained.hub import KNOWN

CONF, EXPERIMENTS = config_root() / "conf", config_root() / "experiments"
NOT_OF_TRAINING = {"benchmark", "discriminator", "peer", "public"}
# Classes of other libraries; a key they would swallow cannot be told from one they know.
FOREIGN = ("diffusers.DDPMScheduler",)


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def choices() -> list[tuple[str, str]]:
    groups = [folder for folder in sorted(CONF.iterdir()) if folder.is_dir() and folder.name not in NOT_OF_TRAINING]
    return [(group.name, name) for group in groups for name in names(group)]


def targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node that Hydra instantiates, the inner ones too."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if OmegaConf.is_missing(node, key):  # for the user to give
                continue
            yield from targets(node[key], f"{path}.{key}" if path else str(key))
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from targets(item, f"{path}[{index}]")


def faults(config: DictConfig) -> list[str]:
    """What the nodes' callables would not take."""
    found = []
    for path, node in targets(config):
        parameters = inspect.signature(get_object(node._target_)).parameters
        given = {key for key in node if not str(key).startswith("_")}
        swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and node._target_ not in FOREIGN
        found += [f"{path}: {node._target_} takes any key"] if swallows else []
        found += [f"{path}: no argument {key} in {node._target_}" for key in given - parameters.keys()]
        required = {name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        if not node.get("_partial_"):
            found += [f"{path}: {node._target_} needs {key}" for key in required - given]
    return found


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_choice_fits_its_callable(group: str, name: str) -> None:
    assert faults(compose_config("train", [f"{group}={name}"])) == []


@pytest.mark.parametrize("name", names(CONF / "discriminator"))
def test_every_discriminator_fits_its_class(name: str) -> None:
    changes = ["objective=one_step", f"discriminator@objective.adversary.network={name}"]
    assert faults(compose_config("train", changes).objective) == []


@pytest.mark.parametrize("name", names(CONF / "peer"))
def test_every_peer_fits_its_class(name: str) -> None:
    assert faults(load_choice("peer", name)) == []


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("ssp_ir", "tiny"))) for name in names(EXPERIMENTS)],
)
@pytest.mark.parametrize("ablation", names(CONF / "ablation"))
def test_every_ablation_composes_with_every_experiment(experiment: str, ablation: str) -> None:
    config = compose_config("train", [f"experiments={experiment}", f"ablation={ablation}"])
    assert config.variant == ablation
    assert config.name == experiment
    OmegaConf.resolve(config)


@pytest.mark.parametrize("experiment", names(EXPERIMENTS))
def test_every_experiment_fits_its_callables(experiment: str) -> None:
    assert faults(compose_config("train", [f"experiments={experiment}"])) == []


@pytest.mark.parametrize("benchmark", names(CONF / "benchmark"))
def test_every_benchmark_fits_its_callables(benchmark: str) -> None:
    config = compose_config("evaluate", ["run=somewhere", f"benchmark={benchmark}"])
    assert faults(config) == []


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sede=5"], "sede"),
        (["seed=five"], "five"),
        (["experiments=tinny"], "tinny"),
        (["backbone=sd16"], "sd16"),
        (["experiments=tiny", "batchsize=3"], "batchsize"),
    ],
)
def test_a_misspelt_key_is_named(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose_config("train", overrides)


def test_a_misspelt_key_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text("# @package _global_\nsede: 5\n")
    with pytest.raises(UserError, match="sede"):
        compose_config("train", [f"hydra.searchpath=[file://{config_root()},file://{tmp_path}]", "experiments=mine"])


def test_a_misspelt_argument_is_found_by_the_fit() -> None:
    config = compose_config("train", ["+backbone.pixel_atention=[]"])
    assert any("pixel_atention" in fault for fault in faults(config))


def test_the_paper_differs_where_the_table_says() -> None:
    ours, paper = (compose_config("train", [f"experiments={name}"]) for name in ("ssp_ir", "ssp_ir_paper"))
    assert (ours.backbone.identity, paper.backbone.identity) == (True, False)
    assert (ours.backbone.coarse_heads, paper.backbone.coarse_heads) == (None, 1)
    assert (ours.loss.frequency_norm, paper.loss.frequency_norm) == ("ortho", "backward")
    assert paper.module.caption_dropout == 0.5
    assert ours.module.gradient_checkpointing is paper.module.gradient_checkpointing is True
    assert paper.callbacks.ema is None
    assert paper.sampler.scheduler == "DDPMScheduler"
    assert (paper.sampler.steps, paper.sampler.guidance, paper.sampler.respace) == (50, 7.5, False)


@pytest.mark.thorough
@pytest.mark.parametrize("experiment", names(EXPERIMENTS))
@pytest.mark.parametrize("optimizer", names(CONF / "optimizer"))
def test_every_experiment_takes_every_optimizer(experiment: str, optimizer: str) -> None:
    schedule = compose_config("train", [f"experiments={experiment}", f"optimizer={optimizer}"]).schedule
    assert schedule is None or "_target_" in schedule


@pytest.mark.parametrize("text_encoder", [name for name in names(CONF / "text_encoder") if name != "tiny"])
def test_the_text_encoder_comes_from_the_folder_of_the_backbone(text_encoder: str) -> None:
    chosen = ["experiments=ssp_ir", f"text_encoder={text_encoder}"]
    config = compose_config("train", [*chosen, "backbone.path=/models/sd", "backbone.revision=abc"])
    assert (config.text_encoder.path, config.text_encoder.revision) == ("/models/sd", "abc")
    assert config.text_encoder.get("subfolder", "text_encoder") == "text_encoder"
    own = compose_config("train", ["experiments=tiny", f"text_encoder={text_encoder}"]).text_encoder
    assert own.path in KNOWN  # a backbone without a path


def test_a_single_file_holds_no_text_encoder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    config = compose_config("train", ["experiments=ssp_ir", f"backbone.path={file}"])
    with pytest.raises(
        UserError, match=r"model\.safetensors is a file; text_encoder\.path must be a folder or a hub id"
    ):
        build(config.text_encoder)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("inti=shipped", r"^There is no setting inti, but init\.$"),
        ("+inti=shipped", r"^There is no setting inti, but init\.$"),
        ("trainer.max_stepss=3", r"^There is no setting trainer\.max_stepss, but trainer\.max_steps\.$"),
        ("loss.xyz=3", r"^There is no setting loss\.xyz; loss has .*frequency.*; \+loss\.xyz=VALUE adds one\.$"),
        ("init_skip=vae", r"^init_skip takes a list: 'init_skip=\[A,B\]'\.$"),
        ("seed=abc", r"^seed: 'abc' is no integer\.$"),
        ("backbone=nix", r"^There is no backbone nix; choose one of sd15, .*, tiny\.$"),
        ("metric=[fast,nix]", r"^There is no metric nix; choose one of all, fast, "),
        ("module.sampler.steps=1", r"^There is no setting module\.sampler\.steps; \+module.*=VALUE adds one\.$"),
        ("logger=null", r"^There is no logger null; choose one of jsonl, .*wandb, or leave it out for the default\.$"),
        ("batch_size=[1", r"^'batch_size=\[1' cannot be read \(no viable .*; write KEY=VALUE, and quote brackets"),
    ],
)
def test_what_cannot_be_composed_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose_config("train", ["experiments=tiny", override])


def test_what_stands_in_the_way_on_the_disk_is_one_sentence() -> None:
    assert str(told(NotADirectoryError(20, "Not a directory", "a/b"))).startswith("a/b: Not a directory; name another")
    assert str(told(OSError(28, "No space left on device"))) == "The disk: No space left on device; make room there."
    assert told(FileNotFoundError(2, "No such file or directory", "a")) is None  # may be a fault of ours


def test_what_others_name_may_be_added() -> None:
    config = compose_config("train", ["experiments=tiny", "+images=3", "batch_size=${oc.select:images,4}"])
    assert config.batch_size == config.data.batch_size == 3
    assert compose_config("train", ["+repeat=2", "sweep=[repeat]"]).repeat == 2
    assert compose_config("train", ["+tag=a", "hydra.run.dir=runs/${tag}"]).tag == "a"


def test_a_file_alone_has_no_defaults_list(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text((config_root() / "conf" / "degradation" / "light_and_strong.yaml").read_text())
    with pytest.raises(UserError, match=r"mine.yaml has a defaults list.*conf/degradation/"):
        load_choice("degradation", str(file))

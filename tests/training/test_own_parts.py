"""Parts of people's own in the place of sspir's: what works, and what is refused before anything is trained."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from hydra.errors import InstantiationException
from torch import Tensor, nn

from sspir.__main__ import main
from sspir.captioners.base import NoCaption, provenance_of
from sspir.config.build import build_captioner, refusal
from sspir.encoders import TextEncoder
from sspir.errors import UserError
from sspir.models import ControlledUNet
from sspir.sampling.sampler import Sampler
from sspir.training.fit import train
from sspir.training.run import build_module
from sspir.weights.load import load_pipeline
from tests.pipelines import write_photo
from tests.runs import tiny_config

HERE = __name__


class Plain(nn.Module):
    """A Processor that keeps no configuration."""

    multiple, predicts_image = 4, True

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.net = tuple(channels), nn.Conv2d(3, 3, 1)

    def forward(self, embedding: nn.Module, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        image = self.net(2 * lq - 1)
        return embedding(image), [image]


class Whole(ModelMixin, ConfigMixin):
    """A Processor that keeps it."""

    multiple, predicts_image = 4, True

    @register_to_config
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.config.channels)

    forward = Plain.forward


@dataclass(frozen=True)
class Half(Sampler):
    """A sampler with a setting more."""

    decay: float = 0.5


class Prefixed(TextEncoder):
    """A text encoder that says more than it is told."""

    def __call__(self, captions: Sequence[str], length: int | None = None) -> Tensor:
        return super().__call__([f"a photo of {caption}" for caption in captions], length)


class Named(ControlledUNet):
    """A backbone that computes as ours does."""

    @classmethod
    def made(cls, **parts: Any) -> "Named":
        return cls.from_unet(**parts)


class Double(Named):
    """A backbone that computes something itself."""

    def predict(self, *arguments: Any, **named: Any) -> Tensor:
        return 2 * super().predict(*arguments, **named)


class Headed(Named):
    """A backbone of a part more."""

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.head = nn.Conv2d(24, 24, 1)


def module_of(folder: Path, processor: type | None, *changes: str) -> Any:
    config = tiny_config(folder, folder, *changes)
    if processor:
        config.processor = {"_target_": f"{HERE}.{processor.__name__}", "channels": [4, 4, 8]}
    return build_module(config)


@pytest.mark.parametrize(
    ("processor", "changes", "sentence"),
    [
        (Plain, ["module.structure_steps=0"], "Plain cannot be a part of a pipeline: derive it from diffu"),
        (Whole, [], "The Processor Whole has no front .*: set module.structure_steps=0"),
        (None, [f"text_encoder._target_={HERE}.Prefixed.tiny"], f"encoder {HERE}.Prefixed has a __call__ of its own"),
        (None, [f"backbone._target_={HERE}.Double.made"], f"{HERE}.Double has a predict of its own"),
        (None, [f"backbone._target_={HERE}.Headed.made"], f"{HERE}.Headed has a head of its own"),
        (None, [f"sampler._target_={HERE}.Half"], rf"The sampler {HERE}.Half would be lost.*sspir.sampling.Sampler"),
        (None, [f"sampler._target_={HERE}.Half", "+sampler.decay=0.1"], rf"The sampler {HERE}.Half would be lost"),
    ],
)
def test_what_a_pipeline_cannot_hold_is_refused_before_training(
    processor: type | None, changes: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InstantiationException) as refused:
        module_of(tmp_path, processor, *changes)
    assert re.search(sentence, str(refusal(refused.value)))


def test_a_backbone_of_ones_own_that_only_makes_its_parts_is_taken(tmp_path: Path) -> None:
    assert isinstance(module_of(tmp_path, None, f"backbone._target_={HERE}.Named.made").backbone, Named)


def test_a_processor_of_ones_own_is_saved_and_loaded_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    module = module_of(tmp_path, Whole, "module.structure_steps=0")
    module.pipeline.save_pretrained(tmp_path / "saved")
    assert isinstance(load_pipeline(tmp_path / "saved").processor, Whole)
    assert "Expected types" not in caplog.text


class Saying(NoCaption):
    """A captioner with a setting."""

    def __init__(self, word: str) -> None:
        self.word = word


def test_a_run_tells_the_settings_of_a_captioner_of_ones_own_as_commands_do(tmp_path: Path) -> None:
    node = {"_target_": f"{HERE}.Saying", "word": "a"}
    config = tiny_config(tmp_path, tmp_path)
    config.captioner = node
    told = provenance_of(build_module(config).captioner)
    assert told == provenance_of(build_captioner(node))
    assert told.keys() == {"captioner", "settings"}


def test_a_training_says_at_its_start_that_its_record_will_be_refused(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path / "run", photo_folder, "trainer.max_steps=1", "trainer.limit_val_batches=0")
    told = "not loaded to restore, .*its optimizer names transformers.optimization.Adafactor, which does not belong"
    config.optimizer = {"_target_": "transformers.optimization.Adafactor", "_partial_": True}
    config.schedule, config.callbacks = None, {}
    train(config)
    assert re.search(told, caplog.text)
    with pytest.raises(UserError, match=told.partition(".*")[2]):
        load_pipeline(tmp_path / "run")


def test_restoring_takes_no_sampler_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "half.yaml").write_text(f"_target_: {HERE}.Half\nsteps: 2\n")
    photo = write_photo(tmp_path / "a.png", 8, 8)
    flags = ["--weights", "shipped/tiny", "--sampler", f"{tmp_path}/half.yaml", "--out", f"{tmp_path}/out"]
    assert main(["restore", str(photo), *flags]) == 2
    assert f"The sampler {HERE}.Half would be lost" in capsys.readouterr().err

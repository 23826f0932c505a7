"""Settings that a node's class does not take are refused before anything is made of them."""

import pytest

from sspir.config.arguments import require_arguments
from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.training import RestorationLoss


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["+trainer.gradient_clip=1"],
            r"^There is no setting trainer\.gradient_clip, but trainer\.gradient_clip_val\.$",
        ),
        (["+loss.www=3"], r"^There is no setting loss\.www; loss has frequency, .*rgb[^+]*\.$"),
        (["+callbacks.ema.every=3"], r"^There is no setting callbacks\.ema\.every; "),
        (["trainer.max_steps=abc"], r"^trainer\.max_steps: 'abc' is no number\.$"),  # the schedule's is interpolated
        (["optimizer.lr=fast"], r"^optimizer\.lr: 'fast' is no number\.$"),
        (["dataset.train.crop.size=[3]"], r"^dataset\.train\.crop\.size: \[3\] is no number\.$"),
        (
            ["+loss.w=3", "+optimizer.eps=none"],
            r"(?s)There is no setting loss\.w;.*\noptimizer\.eps: 'none' is no number",
        ),
    ],
)
def test_what_a_class_does_not_take_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        require_arguments(compose_config("train", ["experiments=tiny", *overrides]))


@pytest.mark.parametrize(
    "node",
    [
        "{_target_:nowhere.Nothing,a:b}",
        "{_target_:'${name}',a:b}",
        "{_target_:builtins.dict,size:abc}",
        "{_target_:sspir.data.Crop,size:'64'}",
        "{_target_:sspir.data.Crop,size:'${batch_size}'}",
        "{_target_:sspir.data.Crop,size:{_target_:math.isqrt,_args_:[4096]}}",
        "{_target_:sspir.data.Crop,_args_:[64]}",
        "{_target_:sspir.degradation.Degradation.mixture,_partial_:true,parts:{}}",
        "{_target_:tests.config.test_arguments.Own,size:abc}",
        "{_target_:tests.config.test_arguments.OwnLoss,extra:1,other:abc}",
    ],
)
def test_what_may_be_right_passes(node: str) -> None:
    require_arguments(compose_config("train", ["experiments=tiny", f"+callbacks.own={node}"]))


class Own(dict[str, object]):
    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)


class OwnLoss(RestorationLoss):
    def __init__(self, extra: float, **settings: float) -> None:
        super().__init__(**settings)
        self.extra = extra


@pytest.mark.parametrize("setting", ["extra", "rgb"])  # its own, and one that it hands on
def test_a_class_that_hands_settings_on_takes_numbers_for_numbers(setting: str) -> None:
    node = f"{{_target_:tests.config.test_arguments.OwnLoss,{setting}:abc}}"
    with pytest.raises(UserError, match=rf"^callbacks\.own\.{setting}: 'abc' is no number\.$"):
        require_arguments(compose_config("train", ["experiments=tiny", f"+callbacks.own={node}"]))


@pytest.mark.parametrize("experiment", ["tiny", "small_one_step", "ssp_ir", "tiny_consistency"])
def test_our_own_experiments_pass(experiment: str) -> None:
    require_arguments(compose_config("train", [f"experiments={experiment}", "trainer.max_steps=1e3"]))
    require_arguments(compose_config("evaluate", ["run=shipped"]))

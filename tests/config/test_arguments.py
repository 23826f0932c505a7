"""Settings that a node's class does not take are refused before anything is made of them."""

import pytest

from sspir.config.arguments import require_arguments
from sspir.config.compose import compose_config
from sspir.errors import UserError


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


@pytest.mark.parametrize("node", ["{_target_:nowhere.Nothing,a:b}", "{_target_:builtins.dict,size:abc}", "null"])
def test_what_cannot_be_told_is_left_to_the_constructor(node: str) -> None:
    require_arguments(compose_config("train", ["experiments=tiny", f"+callbacks.own={node}"]))


@pytest.mark.parametrize("experiment", ["tiny", "small_one_step", "ssp_ir", "tiny_consistency"])
def test_our_own_experiments_pass(experiment: str) -> None:
    require_arguments(compose_config("train", [f"experiments={experiment}", "trainer.max_steps=1e3"]))
    require_arguments(compose_config("evaluate", ["run=shipped"]))

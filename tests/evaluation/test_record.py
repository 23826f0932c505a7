"""The folder of an evaluation, in words."""

from pathlib import Path

import pytest

from sspir.config.compose import compose_config
from sspir.config.naming import settings_of


@pytest.mark.parametrize(
    ("overrides", "name", "settings"),
    [
        ([], "last", {}),
        (["checkpoint=best", "seed=0", "metric=fast", "device=cpu"], "best", {}),
        (["seed=1", "+sampler.steps=20"], "last-seed1-steps20", {"seed": 1, "sampler.steps": 20}),
        (["+sampler.start=null"], "last-start_None", {"sampler.start": None}),
        (
            ["limit=8", "degradation@benchmark.degradation=light"],
            "last-limit8-degradation_light",
            {"limit": 8, "degradation": "light"},
        ),
        (["captioner=measured"], "last-captioner_measured", {"captioner": "measured"}),
        (["checkpoint=last-1.ckpt", "+benchmark.seed=3"], "last-1-benchmark.seed3", {"benchmark.seed": 3}),
    ],
)
def test_the_folder_says_what_differs_from_the_default(overrides: list[str], name: str, settings: dict) -> None:
    config = compose_config("evaluate", ["run=runs/a", "benchmark=set14", *overrides])
    assert config.out == f"runs/a/evaluation/set14/{name}"
    assert settings_of(config) == settings


@pytest.mark.thorough
def test_what_has_no_short_name_is_told_apart_by_digits() -> None:
    def out(*overrides: str) -> str:
        return compose_config("evaluate", ["run=runs/a", "benchmark=set14", *overrides]).out

    changes = [
        ["benchmark.photos.roots=/photos/a"],
        ["benchmark.photos.roots=/photos/b"],
        ["benchmark.degradation.scale=2"],
        ["benchmark.name=mine"],
        ["captioner=llava", "captioner.path=/models/a"],
        ["captioner=llava", "captioner.path=/models/b"],
        ["+sampler.negative_caption='blurred, noisy, and a good deal longer than a folder name'"],
        *([f"+sampler={{steps: 3, negative_caption: {'word ' * 9}, caption_suffix: {text * 30}}}"] for text in "ab"),
    ]
    names = [out(*each) for each in changes]
    assert len({out(), *names}) == len(names) + 1
    assert all(len(name.rpartition("/")[2]) <= 120 and " " not in name for name in names)


def test_a_benchmark_of_ones_own_may_have_another_name_than_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(tmp_path))
    (tmp_path / "conf" / "benchmark").mkdir(parents=True)
    text = "defaults:\n  - set14\n  - _self_\nname: my other bench\nseed: 3\n"
    (tmp_path / "conf" / "benchmark" / "other.yaml").write_text(text)
    for overrides, name in (([], "last"), (["seed=1"], "last-seed1")):
        config = compose_config("evaluate", ["run=runs/a", "benchmark=other", *overrides])
        assert config.out == f"runs/a/evaluation/my other bench/{name}"

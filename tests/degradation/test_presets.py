"""Presets mean what the tables they come from say."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sspir.__main__ import main
from sspir.commands.degrade import load_degradation
from sspir.degradation import Degradation
from sspir.degradation.operation import Step
from sspir.errors import UserError
from sspir.seeding import sample_seed
from tests.degradation.presets import PRESETS, preset
from tests.degradation.test_laws import images

DRAWS = 1500
SECOND_ORDER: dict[str, dict[str, Any]] = {
    "realesrgan_strong": {
        "resize": (0.15, 1.5), "noise": (1, 30), "poisson": (0.05, 3.0), "jpeg": (30, 95), "sigma": (0.2, 3.0),
        "beta": (0.5, 4.0), "second": 0.8, "resize2": (0.3, 1.2), "noise2": (1, 25), "poisson2": (0.05, 2.5),
        "jpeg2": (30, 95), "sigma2": (0.2, 1.5), "kernel2": (7, 21),
    },
    "realesrgan_mild": {
        "resize": (0.3, 1.5), "noise": (1, 15), "poisson": (0.05, 2.0), "jpeg": (60, 95), "sigma": (0.2, 3.0),
        "beta": (0.5, 4.0), "second": 0.5, "resize2": (0.6, 1.2), "noise2": (1, 12), "poisson2": (0.05, 1.0),
        "jpeg2": (60, 100), "sigma2": (0.2, 1.5), "kernel2": (7, 21),
    },
    "stablesr": {
        "resize": (0.3, 1.5), "noise": (1, 15), "poisson": (0.05, 2.0), "jpeg": (60, 95), "sigma": (0.2, 1.5),
        "beta": (0.5, 2.0), "second": 0.5, "resize2": (0.6, 1.2), "noise2": (1, 12), "poisson2": (0.05, 1.0),
        "jpeg2": (60, 100), "sigma2": (0.2, 1.0), "kernel2": (7, 11),
    },
}  # fmt: skip


def programs(name: str) -> Iterator[list[Step]]:
    for seed in range(DRAWS):
        steps = preset(name).draw(seed, (512, 512))
        if len(steps) > 3:  # a clean sample of StableSR
            yield steps


def spans(values: list[float], low: float, high: float) -> None:
    """The values lie in the range and reach close to both of its ends."""
    slack = 0.015 * (high - low)  # sizes are whole pixels
    assert low - slack <= min(values) <= low + 4 * slack
    assert high - 4 * slack <= max(values) <= high + slack


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_presets_draw_from_the_table(name: str) -> None:
    table = SECOND_ORDER[name]
    drawn: dict[str, list[Any]] = {key: [] for key in (*table, "gray", "first", "gauss", "sinc_end", "families")}
    for steps in programs(name):
        kinds = [step["operation"] for step in steps]
        resizes = [i for i, kind in enumerate(kinds) if kind == "RandomResize"]
        noises = [step for step in steps if step["operation"].endswith("Noise")]
        jpegs = [step["quality"] for step in steps if step["operation"] == "JPEG"]
        blurs = [step for step in steps if step["operation"] == "Blur"]
        assert len(resizes) == len(noises) == len(jpegs) == 2
        drawn["resize"].append(steps[resizes[0]]["size"][0] / 512)
        drawn["resize2"].append(steps[resizes[1]]["size"][0] / 128)
        drawn["jpeg"].append(jpegs[0])
        drawn["jpeg2"].append(jpegs[1])
        drawn["second"].append(len(blurs) == 2)
        drawn["gauss"].append(noises[0]["operation"] == "GaussianNoise")
        drawn["sinc_end"].append("Sinc" in kinds)
        for suffix, noise in zip(("", "2"), noises, strict=True):
            drawn["gray"].append(noise["gray"])
            key = "noise" if noise["operation"] == "GaussianNoise" else "poisson"
            drawn[key + suffix].append(noise["sigma"] if key == "noise" else noise["scale"])
        for suffix, blur in zip(("", "2"), blurs, strict=False):
            drawn["families"].append(blur["kernel"])
            if blur["kernel"] != "sinc":
                drawn["sigma" + suffix] += blur["sigma"]
            if blur["kernel"].startswith("generalized"):
                drawn["beta"].append(blur["beta"])
        if len(blurs) == 2:
            drawn["kernel2"].append(blurs[1]["kernel_size"])
    for key in set(table) - {"second"}:
        spans(drawn[key], *table[key])
    assert np.mean(drawn["second"]) == pytest.approx(table["second"], abs=0.04)
    assert np.mean(drawn["gauss"]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(drawn["gray"]) == pytest.approx(0.4, abs=0.04)
    assert np.mean(drawn["sinc_end"]) == pytest.approx(0.8, abs=0.04)
    sizes = np.array(drawn["resize"])
    assert np.mean(sizes > 1) == pytest.approx(0.2, abs=0.04)
    assert np.mean(sizes < 1) == pytest.approx(0.7, abs=0.04)
    shares = {family: drawn["families"].count(family) / len(drawn["families"]) for family in set(drawn["families"])}
    expected = {"sinc": 0.1, "iso": 0.405, "aniso": 0.225, "generalized_iso": 0.108, "plateau_iso": 0.108}
    for family, share in expected.items():
        assert shares[family] == pytest.approx(share, abs=0.04)


def test_final_size_comes_before_or_after_the_last_jpeg() -> None:
    last = ["JPEG" if steps[-2]["operation"] == "JPEG" else "size" for steps in programs("realesrgan_strong")]
    assert last.count("JPEG") / len(last) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["bsrgan", "bsrgan_plus"])
def test_bsrgan_is_of_scale_4_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["train", "experiments=tiny", f"degradation={name}", "--cfg", "job", "--resolve"]
    assert main(shown) == 0
    assert main([*shown, "module.scale=2"]) == 2
    told = "degradation.scale: The degradation's numbers are those of scale 4, not 2; choose another one."
    assert told in capsys.readouterr().err
    assert load_degradation(name, 4).scale == 4
    assert load_degradation("light", 2).scale == 2


def test_bsrgan_shuffles_and_ends_with_jpeg() -> None:
    orders = set()
    for steps in programs("bsrgan"):
        kinds = [step["operation"] for step in steps]
        assert kinds[-2:] == ["JPEG", "Quantize"]
        assert kinds.index("Resize") > max(kinds.index(k) for k in ("Downsample", "NearestDownsample") if k in kinds)
        orders.add(tuple(kinds))
    assert len(orders) > 200


def test_codeformer_follows_its_table() -> None:
    drawn = [preset("codeformer").draw(seed, (512, 512)) for seed in range(DRAWS)]
    assert {tuple(step["operation"] for step in steps) for steps in drawn} == {
        ("Blur", "Downsample", "GaussianNoise", "JPEG", "Resize", "Quantize")
    }
    spans([s for steps in drawn for s in steps[0]["sigma"]], 0.1, 12)
    spans([512 / steps[1]["size"][0] for steps in drawn], 1, 12.3)
    spans([steps[2]["sigma"] for steps in drawn], 0, 15)
    spans([steps[3]["quality"] for steps in drawn], 30, 100)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (3, 37, 31), (2, 4, 90)])
def test_any_preset_takes_any_size_and_batch(name: str, batch: int, height: int, width: int) -> None:
    degradation = preset(name)
    seeds = [sample_seed(7, batch, f"{i}") for i in range(batch)]
    photos = images(batch, height, width)
    lq = degradation(photos, seeds)
    scale = degradation.scale
    assert lq.shape == (batch, 3, max(1, height // scale), max(1, width // scale))
    assert lq.isfinite().all()
    assert 0 <= lq.min() <= lq.max() <= 1
    alone = torch.cat([degradation(photos[i : i + 1], seeds[i : i + 1]) for i in range(batch)])
    assert torch.equal(lq, alone)
    written = json.loads(json.dumps([degradation.draw(seed, (height, width)) for seed in seeds]))
    assert torch.equal(lq, degradation.apply(photos, written))


@pytest.mark.parametrize("name", ["realesrgan_strong", "bsrgan", "bsrgan_plus", "stablesr"])
def test_lockstep_batches_of_devices_agree_with_single_images(name: str) -> None:
    """On a GPU equal steps run as one batch; wanting gradients takes the same functions on the CPU."""
    degradation = preset(name)
    photos = images(4, 32, 32).requires_grad_()
    params = [degradation.draw(seed, (32, 32)) for seed in range(4)]
    together = torch.cat(degradation._apply_in_step(photos, params))
    alone = degradation.apply(photos, params)
    assert (together - alone).abs().max() <= 1.01 / 255  # a rounding may fall to the other side
    assert (together - alone).abs().mean() < 1e-4


@pytest.mark.thorough
def test_another_process_draws_and_degrades_the_same() -> None:
    code = (
        "import torch; from tests.degradation.presets import preset; from tests.degradation.test_laws import images\n"
        "from sspir.seeding import sample_seed\n"
        "print(preset('realesrgan_strong')(images(1, 64, 64), [sample_seed(1, 2, 'a/b.png')]).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = preset("realesrgan_strong")(images(1, 64, 64), [sample_seed(1, 2, "a/b.png")]).sum().item()
    assert float(done.stdout) == here


def test_sample_seeds_differ_and_stay() -> None:
    assert sample_seed(0, 0, "a.png") == 6691635304846680667
    seeds = {sample_seed(s, e, n) for s in range(5) for e in range(5) for n in ("a", "b", "1\na")}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_mixture_draws_its_parts_as_often_as_it_says() -> None:
    parts = {"bicubic": preset("bicubic"), "none": Degradation([], 4)}
    mixture = Degradation.mixture(parts, {"bicubic": 3, "none": 1})
    untouched = sum(not mixture.draw(seed, (64, 64)) for seed in range(DRAWS))
    assert 0.21 * DRAWS < untouched < 0.29 * DRAWS
    with pytest.raises(UserError, match="give each part a weight"):
        Degradation.mixture(parts, {"bicubic": 1})

from typing import Any

import pytest
import torch

from sspir.errors import UserError
from sspir.training.losses import RestorationLoss, frequency_l1, min_snr_weight
from tests.reference import assert_golden, recording


@pytest.mark.parametrize("case", ["even", "odd", "square"])
def test_frequency_loss_is_the_authors(case: str) -> None:
    golden = recording("fft_loss")
    prediction = golden.inputs[f"{case}.pred"].clone().requires_grad_()
    loss = frequency_l1(prediction, golden.inputs[f"{case}.target"])
    loss.backward()
    assert_golden(loss.detach().reshape(1), golden.outputs[f"{case}.loss"].reshape(1), 1e-6)
    assert_golden(prediction.grad, golden.outputs[f"{case}.grad_pred"])


def test_orthonormal_frequency_loss_does_not_grow_with_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.randn(1, 3, size, size, generator=generator) for size in (32, 128))
    zero = torch.zeros(())
    ortho = [frequency_l1(image, zero.expand_as(image), "ortho").item() for image in (small, large)]
    plain = [frequency_l1(image, zero.expand_as(image)).item() for image in (small, large)]
    assert ortho[0] == pytest.approx(ortho[1], rel=0.05)
    assert plain[1] / plain[0] == pytest.approx(4, rel=0.05)


def test_min_snr_weights_follow_the_paper() -> None:
    snr = torch.tensor([0.1, 5.0, 50.0])
    assert min_snr_weight(snr, 5, "sample").tolist() == pytest.approx([0.1, 5, 5])
    assert min_snr_weight(snr, 5, "epsilon").tolist() == pytest.approx([1, 1, 0.1])
    assert min_snr_weight(snr, 5, "v_prediction").tolist() == pytest.approx([0.1 / 1.1, 5 / 6, 5 / 51])


def test_min_snr_weighs_each_sample() -> None:
    loss = RestorationLoss(min_snr_gamma=5)
    prediction, target = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    value = loss.noise(prediction, target, torch.tensor([5.0, 50.0]), "epsilon")
    assert value.item() == pytest.approx((1 + 0.1) / 2)


def test_structure_losses_switch_off_and_vanish_at_equality() -> None:
    hq = torch.rand(1, 3, 16, 16)
    images = [2 * hq - 1, torch.nn.functional.interpolate(2 * hq - 1, (8, 8), mode="bilinear")]
    losses = RestorationLoss().structure(images, hq)
    assert losses.keys() == {"rgb", "frequency"}
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())
    assert RestorationLoss(rgb=0).structure(images, hq).keys() == {"frequency"}
    assert RestorationLoss(frequency=0).structure(images, hq).keys() == {"rgb"}
    assert RestorationLoss().structure([], hq) == {}


@pytest.mark.parametrize(
    "given", [{"rgb": -0.1}, {"frequency": -1}, {"min_snr_gamma": -5}, {"frequency_norm": "orthonormal"}]
)
def test_settings_that_turn_a_loss_round_or_name_none_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"loss.{next(iter(given))}"):
        RestorationLoss(**given)

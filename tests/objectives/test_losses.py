"""Losses of pictures and of a discriminator, against formulas and finite differences."""

import logging
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.errors import UserError
from sspir.metrics.grid import Grid, Seams
from sspir.objectives import (
    Adversary,
    FrequencyLoss,
    GridLoss,
    PatchDiscriminator,
    PerceptualLoss,
    PixelLoss,
    SeamsLoss,
    Term,
    UNetDiscriminator,
)
from sspir.objectives.adversary import ACCURACY, WINS

SGD = partial(torch.optim.SGD, lr=0.1)


def pictures(seed: int, side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Mean(nn.Module):
    """The simplest discriminator: a weight times the mean of a picture, with an offset."""

    def __init__(self, weight: float = 2.0, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.tensor(weight)), offset

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images.mean(dim=(1, 2, 3)) + self.offset


def test_pixel_and_frequency_losses_are_their_formulas() -> None:
    ours, theirs = pictures(0), pictures(1)
    assert PixelLoss("l1")(ours, theirs) == (ours - theirs).abs().mean()
    assert PixelLoss("l2")(ours, theirs) == (ours - theirs).square().mean()
    spectrum = torch.fft.rfft2(ours - theirs, norm="ortho")
    assert FrequencyLoss()(ours, theirs).item() == pytest.approx(
        (spectrum.real.abs() + spectrum.imag.abs()).mean().item() / 2
    )
    with pytest.raises(UserError, match="norm='l3'"):
        PixelLoss("l3")


def test_patches_of_which_a_shift_leaves_too_little_are_refused_by_their_setting() -> None:
    PerceptualLoss("lpips").require_side("objective.terms.lpips", 35)
    with pytest.raises(UserError, match=r"terms\.lpips .* 34 it sees 31, .* dataset\.train\.crop\.size to 35 or"):
        PerceptualLoss("lpips").require_side("objective.terms.lpips", 34)
    PixelLoss().require_side("objective.terms.pixel", 1)


@pytest.mark.parametrize(("network", "least"), [(PatchDiscriminator(2, 5), 32), (UNetDiscriminator(2), 8)])
def test_a_discriminator_too_deep_for_its_patches_is_refused_before_it_begins(network: nn.Module, least: int) -> None:
    assert network(torch.zeros(1, 3, least, least)).isfinite().all()
    with pytest.raises(RuntimeError, match="Kernel size"):
        network(torch.zeros(1, 3, least - 1, least - 1))
    adversary = Adversary(network, 1.0, SGD, start=1000, begin=500)
    adversary.require_side(least + 3)
    with pytest.raises(
        UserError, match=rf"from {least + 3} pixels, .* these have {least + 2}; set dataset\.train\.crop"
    ):
        adversary.require_side(least + 2)


def test_the_grid_loss_is_the_metric_of_one_picture_and_falls_along_its_gradient() -> None:
    weave = torch.tensor([[0.0, 6.0], [3.0, 1.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1).repeat(12, 12)
    image = ((100 + weave) / 255).expand(1, 3, -1, -1).clone().requires_grad_(True)
    metric = Grid(4)
    metric.update(image.detach())
    loss = GridLoss(4)(image, image)
    assert loss.item() == pytest.approx(metric.compute().item(), rel=0.1)  # the metric rounds to bytes
    (slope,) = torch.autograd.grad(loss, image)
    after = GridLoss(4)(image - 0.01 * slope / slope.norm(), image)
    assert after.item() == pytest.approx(loss.item() - 0.01 * slope.norm().item(), rel=1e-2)


def test_a_pattern_that_differs_from_picture_to_picture_is_no_weave() -> None:
    column = torch.tensor([4.0, 0, 0, 0]).repeat(12).expand(48, -1)
    each = [torch.roll(column, shift, dims=1) for shift in range(4)]
    stack = (torch.stack(each)[:, None].expand(-1, 3, -1, -1) + 100) / 255
    assert GridLoss(4)(stack, stack) < 0.3 * GridLoss(4)(stack[:1], stack)


def test_the_seams_loss_is_the_metric_of_one_picture_and_falls_along_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    lines = 12 * torch.randn(1, 1, 48, 12, 1, generator=generator) * torch.tensor([1.0, 0, 0, 0])
    texture = 128 + 12 * torch.randn(1, 1, 48, 48, generator=generator)
    image = ((texture + lines.flatten(3)) / 255).expand(1, 3, -1, -1).clone().requires_grad_(True)
    metric = Seams(4)
    metric.update(image.detach())
    loss = SeamsLoss(4)(image, image)
    assert loss.item() == pytest.approx(metric.compute().item(), rel=0.1)  # the metric rounds to bytes
    (slope,) = torch.autograd.grad(loss, image)
    after = SeamsLoss(4)(image - 0.001 * slope / slope.norm(), image)
    assert after.item() == pytest.approx(loss.item() - 0.001 * slope.norm().item(), rel=1e-2)
    turned = torch.cat([torch.roll(image, shift, dims=3) for shift in range(4)])
    assert SeamsLoss(4)(turned, turned) < 0.6 * loss  # what differs from picture to picture is no seam
    flat = torch.full_like(image, 0.5).requires_grad_(True)
    loss = SeamsLoss(4)(flat, flat)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, flat)[0].any()
    with pytest.raises(UserError, match="4, 8 or 16"):
        SeamsLoss(5)


@pytest.mark.parametrize("network", [PatchDiscriminator(4), UNetDiscriminator(4)])
def test_discriminators_judge_places_of_odd_pictures(network: nn.Module) -> None:
    image = torch.rand(1, 3, 45, 37)
    logits = network(image)
    assert logits.shape[:2] == (1, 1)
    changed = image.clone()
    changed[..., :6, :6] = 0
    difference = (network.eval()(changed) - network(image)).abs()[0, 0]
    assert difference[0, 0] > 10 * difference[-1, -1]


@pytest.mark.parametrize("loss", ["hinge", "softplus"])
def test_both_sides_of_a_game_are_their_formulas(loss: str) -> None:
    network, ours, truth = Mean(), pictures(0).requires_grad_(True), pictures(1)
    adversary = Adversary(network, 0.5, SGD, loss)
    told = adversary.losses(ours, truth, step=0)
    real, fake = 2 * truth.mean(dim=(1, 2, 3)), 2 * ours.detach().mean(dim=(1, 2, 3))
    if loss == "hinge":
        expected, learned = -fake.mean(), F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        slope = -(truth.mean(dim=(1, 2, 3)) * (real < 1)).mean() + ours.mean(dim=(1, 2, 3)).mean()
    else:
        expected, learned = F.softplus(-fake).mean(), F.softplus(-real).mean() + F.softplus(fake).mean()
        means = [images.mean(dim=(1, 2, 3)) for images in (truth, ours)]
        slope = (-torch.sigmoid(-real) * means[0]).mean() + (torch.sigmoid(fake) * means[1]).mean()
    assert told.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert adversary.figures["discriminator/loss"] == pytest.approx(learned.item(), rel=1e-5)
    assert network.weight.grad.item() == pytest.approx(slope.item(), rel=1e-5)


def test_neither_network_reaches_the_other() -> None:
    generator, network = nn.Conv2d(3, 3, 1), UNetDiscriminator(4)
    adversary = Adversary(network, 1.0, SGD)
    told = adversary.losses(generator(pictures(0)), pictures(1), step=0)
    assert generator.weight.grad is None  # the discriminator's backward pass is through
    learned = [parameter.grad.clone() for parameter in adversary.parameters]
    told.backward()
    assert generator.weight.grad.abs().sum() > 0
    assert all(torch.equal(a, b.grad) for a, b in zip(learned, adversary.parameters, strict=True))
    assert all(parameter.requires_grad for parameter in adversary.parameters)


def test_accumulated_halves_are_a_whole() -> None:
    ours, truth = pictures(0), pictures(1)
    whole, parts = (Adversary(Mean(), 1.0, SGD, r1=3.0) for _ in range(2))
    whole.losses(ours, truth, 0)
    for n in range(2):
        parts.losses(ours[[n]], truth[[n]], 0, share=0.5)
    for adversary in (whole, parts):
        adversary.end_step()
    assert whole.network.weight.item() == pytest.approx(parts.network.weight.item(), rel=1e-6)
    assert whole.network.weight.grad is None


def test_r1_is_the_squared_slope_at_the_truth() -> None:
    figures = []
    for r1 in (0.0, 10.0):
        adversary = Adversary(Mean(), 1.0, SGD, r1=r1)
        adversary.losses(pictures(0), pictures(1), 0)
        figures.append(adversary.figures["discriminator/loss"])
    pixels = 3 * 32 * 32
    assert figures[1] - figures[0] == pytest.approx(10 / 2 * 2**2 / pixels, rel=1e-3)


def test_the_generator_is_told_from_a_step_on() -> None:
    adversary = Adversary(Mean(), 1.0, SGD, start=2)
    assert [adversary.losses(pictures(0), pictures(1), step).item() > 0 for step in (0, 1, 2)] == [False, False, True]


def test_steps_of_a_discriminator_are_whole_numbers() -> None:
    for given in ({"begin": "soon"}, {"begin": -3}, {"start": 1.5}):
        with pytest.raises(UserError, match=f"objective.adversary.{next(iter(given))}: "):
            Adversary(Mean(), 1.0, SGD, **given)


def test_the_discriminator_learns_from_a_step_on() -> None:
    adversary = Adversary(Mean(), 1.0, SGD, begin=2)
    weights = []
    for step in range(3):
        told = adversary.losses(pictures(0), pictures(1), step).item()
        adversary.end_step()
        weights.append((told > 0, adversary.network.weight.item() != 2.0))
    assert weights == [(False, False), (False, False), (True, True)]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    adversary = Adversary(Mean(), 1.0, SGD)
    adversary.losses(pictures(0), torch.full_like(pictures(1), torch.nan), 0)
    adversary.end_step()
    assert adversary.network.weight.item() == 2.0


def test_float16_is_left_out_as_its_gradients_need_a_scaler() -> None:
    figures = []
    for dtype in (torch.float16, None):
        torch.manual_seed(0)
        adversary = Adversary(UNetDiscriminator(4), 1.0, SGD)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            adversary.losses(pictures(0), pictures(1), 0)
        figures.append(adversary.figures["discriminator/loss"])
    assert figures[0] == figures[1]
    assert all(parameter.grad.dtype == torch.float32 for parameter in adversary.parameters)


def test_a_discriminator_that_wins_for_long_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    adversary = Adversary(Mean(4.0, -2.0), 1.0, partial(torch.optim.SGD, lr=0.0))
    for wins in (WINS + 3, 1):
        for _ in range(wins):
            adversary.losses(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), 0)
            assert adversary.accuracy[-1] >= ACCURACY
            adversary.end_step()
        adversary.losses(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), 0)  # it loses once
        adversary.end_step()
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"for {WINS} steps" in record.getMessage() for record in told] == [True]


def test_wrong_words_are_told() -> None:
    with pytest.raises(UserError, match="nobody"):
        Term(PixelLoss(), 1.0, target="nobody")
    with pytest.raises(UserError, match="loss='wins'"):
        Adversary(Mean(), 1.0, SGD, "wins")
    with pytest.raises(UserError, match="multiple of 4"):
        GridLoss(0)


@pytest.mark.parametrize(("name", "number"), [("weight", -0.1), ("r1", -1), ("clip", 0)])
def test_numbers_that_turn_the_game_round_or_end_it_are_refused(name: str, number: float) -> None:
    with pytest.raises(UserError, match=rf"objective.adversary.{name}: {number} is no number"):
        Adversary(Mean(), optimizer=SGD, **{"weight": 1.0, name: number})


def test_a_discriminator_without_channels_is_refused() -> None:
    for network, given in ((PatchDiscriminator, {"width": 0}), (UNetDiscriminator, {"width": 0})):
        with pytest.raises(UserError, match=r"objective.adversary.network.width: 0 is no whole number from 1"):
            network(**given)
    with pytest.raises(UserError, match="depth: -1"):
        PatchDiscriminator(depth=-1)

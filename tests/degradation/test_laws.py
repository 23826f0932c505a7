"""Laws that every operation obeys."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import sspir.degradation as ops
from sspir.degradation import Blur, Chain, Degradation, OneOf, Operation, Resize, Shuffled, Sometimes, Truth
from sspir.degradation.noise import _white, _white_unread
from sspir.degradation.operation import Step
from sspir.errors import UserError
from tests.degradation.operations import ACTIVE, IDLE

SIZES = [(37, 31), (8, 8), (1, 1), (5, 64), (2, 3)]


def images(batch: int, height: int, width: int) -> Tensor:
    """Smooth colours with some noise: what photos are like."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 0.05 * torch.randn(batch, 3, height, width, generator=generator)).clamp(0, 1)


def draw(operation: Operation, seed: int, height: int, width: int) -> Step:
    (step,) = operation.program(
        torch.Generator().manual_seed(seed), (height, width), (max(1, height // 2), max(1, width // 2))
    )
    return step


@pytest.mark.parametrize("name", ACTIVE)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shape_and_range(name: str, height: int, width: int) -> None:
    for seed in range(4):
        step = draw(ACTIVE[name], seed, height, width)
        result = ACTIVE[name].apply(images(1, height, width), [step])
        assert result.shape == (1, 3, *step.get("size", (height, width)))
        assert result.isfinite().all()
        # a kernel with negative weights overshoots; what comes next clamps
        low, high = (-0.2, 1.2) if step.get("kernel") == "sinc" else (-1e-5, 1 + 1e-5)
        assert low <= result.min() <= result.max() <= high


@pytest.mark.parametrize("name", ACTIVE)
def test_steps_survive_json_and_repeat_exactly(name: str) -> None:
    step = draw(ACTIVE[name], 5, 37, 31)
    again = json.loads(json.dumps(draw(ACTIVE[name], 5, 37, 31)))
    assert step == again
    photo = images(1, 37, 31)
    kept = photo.clone()
    assert torch.equal(ACTIVE[name].apply(photo, [step]), ACTIVE[name].apply(photo, [again]))
    assert torch.equal(photo, kept)  # the input is left alone


def test_photons_of_white_are_the_same_where_levels_are_not_read() -> None:
    for distinct in range(1, 257):
        levels = torch.randperm(256, generator=torch.Generator().manual_seed(distinct))[:distinct].float().repeat(3)
        assert _white_unread(levels).item() == _white(levels)


@pytest.mark.parametrize("name", ACTIVE)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    photos = images(3, 37, 31)
    steps = [draw(ACTIVE[name], seed, 37, 31) for seed in range(3)]
    for step in steps[1:]:
        step.update({key: steps[0][key] for key in ("size", "factor") if key in step})
    together = ACTIVE[name].apply(photos, steps)
    alone = torch.cat([ACTIVE[name].apply(photos[i : i + 1], [steps[i]]) for i in range(3)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", sorted(set(ACTIVE) - {"jpeg"}))
@pytest.mark.parametrize(("height", "width"), [(37, 31), (64, 48), (5, 64)])
def test_opencv_and_torch_agree(name: str, height: int, width: int) -> None:
    photos = images(2, height, width)
    steps = [draw(ACTIVE[name], seed, height, width) for seed in (1, 2)]
    steps[1].update({key: steps[0][key] for key in ("size", "factor") if key in steps[1]})
    fast = ACTIVE[name].apply(photos, steps)
    plain = ACTIVE[name].apply(photos.clone().requires_grad_(), steps)  # wanting gradients asks for torch's way
    assert (fast - plain).abs().max() < 2e-4


@pytest.mark.parametrize("name", sorted(set(ACTIVE) - {"sharpen"}))
def test_gradients_flow(name: str) -> None:
    photos = (images(1, 37, 31) * 0.5 + 0.25).requires_grad_()
    ACTIVE[name].apply(photos, [draw(ACTIVE[name], 3, 37, 31)]).sum().backward()
    assert photos.grad is not None
    assert photos.grad.isfinite().all()
    assert photos.grad.abs().sum() > 0


@pytest.mark.parametrize("name", IDLE)
def test_zero_strength_is_the_identity(name: str) -> None:
    photos = images(1, 37, 31)
    for seed in range(3):
        result = IDLE[name].apply(photos, [draw(IDLE[name], seed, 37, 31)])
        assert (result - photos).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["blur", "sinc", "anisotropic_blur", "random_resize", "resize", "downsample"])
@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_a_flat_photo_stays_flat(name: str, level: float) -> None:
    """Kernels sum to 1, at the borders too, and interpolations as well."""
    for seed in range(6):
        result = ACTIVE[name].apply(torch.full((1, 3, 37, 31), level), [draw(ACTIVE[name], seed, 37, 31)])
        assert (result - level).abs().max() < 1e-5


def test_chain_draws_for_the_size_that_is_left() -> None:
    chain = Chain([ACTIVE["nearest_downsample"], ACTIVE["nearest_downsample"]])
    steps = chain.program(torch.Generator().manual_seed(0), (37, 31), (9, 7))
    assert [step["size"] for step in steps] == [[19, 16], [10, 8]]


def names(operation: Operation, seed: int) -> list[str]:
    return [step["operation"] for step in operation.program(torch.Generator().manual_seed(seed), (8, 8), (8, 8))]


def test_probabilities_and_weights_are_met() -> None:
    sometimes = Sometimes([ACTIVE["jpeg"]], 0.3)
    one = OneOf([ACTIVE["jpeg"], ACTIVE["quantize"], ACTIVE["sharpen"]], [0.5, 0.5, 0])
    draws = range(2000)
    assert sum(len(names(sometimes, seed)) for seed in draws) / 2000 == pytest.approx(0.3, abs=0.035)
    chosen = [names(one, seed)[0] for seed in draws]
    assert chosen.count("JPEG") / 2000 == pytest.approx(0.5, abs=0.035)
    assert "Sharpen" not in chosen


def test_shuffling_keeps_the_order_that_was_asked_for() -> None:
    shuffled = Shuffled([ACTIVE[n] for n in ("jpeg", "sharpen", "downsample", "resize")], in_order=[2, 3])
    orders = {tuple(names(shuffled, seed)) for seed in range(300)}
    assert len(orders) == 12
    assert all(order.index("Downsample") < order.index("Resize") for order in orders)
    fixed = Shuffled([ACTIVE[n] for n in ("jpeg", "sharpen", "downsample")], probability=0)
    assert {tuple(names(fixed, seed)) for seed in range(20)} == {("JPEG", "Sharpen", "Downsample")}


def test_degradation_refuses_a_wrong_final_size() -> None:
    from sspir.errors import UserError

    with pytest.raises(UserError, match="Resize"):
        Degradation([ACTIVE["jpeg"]], scale=2)(images(1, 8, 8), [0])


def test_the_truth_is_changed_by_its_own_operations_alone_and_degraded_as_it_is() -> None:
    soft = Blur([7, 7], {"iso": 1.0}, [0.4, 1.1])
    worse = [Blur([7, 7], {"iso": 1.0}, [1.0, 2.0]), Resize(["area"])]
    changed, plain = Degradation([Truth([soft]), *worse], 2), Degradation(worse, 2)
    parts = Degradation.mixture({"changed": changed, "plain": plain}, {"changed": 1.0, "plain": 1.0})
    photos, params = images(4, 16, 24), json.loads(json.dumps([parts.draw(seed, (16, 24)) for seed in range(4)]))
    hq, lq = parts.make(photos, params)
    assert {len(steps) for steps in params} == {2, 3}
    for photo, steps, truth, degraded in zip(photos, params, hq, lq, strict=True):
        wanted = soft.apply(photo[None], steps[:1])[0] if len(steps) == 3 else photo
        assert torch.equal(truth, wanted)
        assert torch.equal(degraded, plain.apply(truth[None], [steps[-2:]])[0])
    assert torch.equal(parts.apply(photos, params), lq)
    with pytest.raises(UserError, match="leaves"):
        Degradation([Truth([Resize(["area"])]), Resize(["area"])], 2).pair(photos, range(4))


def test_a_truth_that_may_come_late_is_refused_before_anything_is_drawn() -> None:
    blur, soft = ACTIVE["blur"], Truth([ACTIVE["sinc"]])
    firsts = [[Sometimes([soft], 0.5), soft, blur], [OneOf([Chain([soft, blur]), blur])], [Shuffled([soft]), blur]]
    for operations in firsts:
        Degradation(operations, 1)
    lates = [[blur, soft], [Sometimes([blur], 0.1), soft], [OneOf([soft, blur]), soft], [Shuffled([soft, blur])]]
    for operations in (*lates, [blur, OneOf([soft, blur])], [Sometimes([blur, soft], 0.1)]):
        with pytest.raises(UserError, match="A Truth may follow another operation of the degradation; put it first"):
            Degradation(operations, 1)


class Own(Operation):
    def draw(self, generator: torch.Generator, size: tuple[int, int], target: tuple[int, int]) -> Step:
        return {"truth": 0.5}

    @staticmethod
    def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
        return images * steps[0]["truth"]


def test_an_operation_of_ones_own_may_call_a_parameter_truth() -> None:
    photos = images(1, 8, 8)
    for operations, wanted in (([Own()], photos), ([Truth([Truth([Own()])])], photos / 2)):
        hq, lq = Degradation(operations, 1).pair(photos, [0])
        assert torch.equal(hq, wanted)
        assert torch.equal(lq, photos / 2)


def test_an_operation_that_has_the_name_of_another_is_refused() -> None:
    class Resize(ops.Resize):  # as somebody's own may be called
        @staticmethod
        def apply(images: Tensor, steps: Sequence[Step]) -> Tensor:
            return 1 - ops.Resize.apply(images, steps)

    with pytest.raises(UserError, match="Several operations are called Resize: rename yours"):
        Degradation([ops.Resize(["bicubic"]), Resize(["bicubic"])], 4)
    assert Degradation([Resize(["bicubic"]), Resize(["area"])], 4).appliers.keys() == {"Resize"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ops.Sharpen(radius=-3), "Sharpen.radius: -3 is no whole number from 0 to 1,000"),
        (lambda: ops.Sharpen(radius=2.5), "Sharpen.radius: 2.5 is no whole number"),
        (lambda: ops.Sharpen(amount=float("nan")), "Sharpen.amount: nan is no number"),
        (lambda: ops.Sharpen(threshold="high"), "Sharpen.threshold: 'high' is no number"),
        (
            lambda: Shuffled([Resize(), Resize()], in_order=[0, 5]),
            "Shuffled.in_order: 5 is no whole number from 0 to 1",
        ),
        (lambda: Shuffled([Resize(), Resize()], in_order=[-1]), "Shuffled.in_order: -1 is no whole number from 0 to 1"),
        (lambda: ops.NearestDownsample(0, [1, 2]), "NearestDownsample.factor: 0 is no whole number from 1"),
        (lambda: ops.Sinc([7, 21], cutoff=[0, 0]), "Sinc.cutoff is .*: give two numbers, the smaller first, from 0.01"),
        (lambda: Degradation([Resize()], 2.5), "The degradation's scale: 2.5 is no whole number from 1"),
        (lambda: Degradation([Resize()], 0), "The degradation's scale: 0 is no whole number from 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_drawn(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_what_overshoots_at_the_end_is_clamped() -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1
    ringing = Blur([21, 21], {"iso": 1.0}, [1, 1], [1, 1], [1, 1], sinc=1)
    step = draw(ringing, 0, 32, 32)
    assert ringing.apply(edge, [step]).max() > 1.01
    lq = Degradation([ringing], 1)(edge, [0])
    assert 0 <= lq.min() <= lq.max() <= 1


def test_what_is_no_operation_is_refused() -> None:
    with pytest.raises(UserError, match="dict is no operation; derive it"):
        Degradation([Sometimes([{}], 0.5)], 4)  # type: ignore[list-item]  # what people hand in

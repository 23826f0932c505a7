"""Updates by one kernel: what they leave out, how their gradients are clipped, and checkpoints of another kernel."""

import copy
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sspir.batch import Batch
from sspir.errors import UserError
from sspir.training.updates import SkipNaN, clip, gradients_of, norm_of, optimizer_of

NAN = float("nan")


class Bumpy(pl.LightningModule):
    """Trains two weights by losses of these slopes, and remembers the weights before each step."""

    def __init__(self, slopes: list[float], fused: bool | None) -> None:
        super().__init__()
        self.layer, self.slopes, self.fused = nn.Linear(2, 1, bias=False), slopes, fused
        self.layer.weight.data.fill_(1.0)
        self.gradient_norm: Tensor | None = None
        self.seen: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(self.layer.weight.detach().clone())
        return self.slopes[batch_idx] * self.layer(batch.lq).sum()

    def configure_optimizers(self) -> Any:
        return optimizer_of(partial(torch.optim.AdamW, lr=0.1, fused=self.fused), list(self.parameters()), self)

    def configure_gradient_clipping(self, optimizer: Any, *settings: Any, **named: Any) -> None:
        clip(self, optimizer, *settings, **named)

    def train_dataloader(self) -> DataLoader:
        batches = [Batch(torch.ones(1, 2), torch.ones(1, 2), [""], [f"{n}.png"]) for n in range(len(self.slopes))]
        return DataLoader(batches, collate_fn=lambda each: each[0])


def fit(module: Bumpy, precision: Any = "32-true") -> SkipNaN:
    broken = SkipNaN(limit=3)
    pl.Trainer(
        accelerator="cpu", precision=precision, callbacks=[broken], max_epochs=1, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module)  # fmt: skip
    return broken


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_kernel_leaves_the_same_steps_out(precision: str) -> None:
    slopes = [1.0, NAN, 2.0, NAN, NAN, 0.5, NAN]
    ours, theirs = Bumpy(slopes, True), Bumpy(slopes, None)
    broken, others = fit(ours, precision), fit(theirs, precision)
    assert broken.skipped == others.skipped == 4
    for step in (1, 3, 4):
        assert torch.equal(ours.seen[step], ours.seen[step + 1])
    assert torch.equal(ours.layer.weight, ours.seen[-1])
    assert len({each[0, 0].item() for each in ours.seen}) == 4  # the others learn
    assert torch.allclose(ours.layer.weight, theirs.layer.weight, atol=1e-6)  # not counted by Adam either


@pytest.mark.parametrize("fused", [True, None])
def test_a_few_in_a_row_stop_the_run_and_name_the_last(fused: bool | None) -> None:
    module = Bumpy([NAN, 1.0, NAN, NAN, NAN, 1.0, 1.0], fused)
    with pytest.raises(UserError, match=r"3 steps in a row .* the last one at step 4 with the images 4\.png;"):
        fit(module)
    assert torch.equal(module.seen[-1], module.seen[2])


@pytest.mark.parametrize("measured", [False, True])
def test_gradients_are_clipped_as_torch_does(measured: bool) -> None:
    module = Bumpy([1.0], None)
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    parameters = [nn.Parameter(torch.zeros(7, side)) for side in (3, 5)]
    for most in (0.1, 100.0, None):
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        wanted = copy.deepcopy(parameters)
        for theirs, parameter in zip(wanted, parameters, strict=True):
            theirs.grad = parameter.grad.clone()
        if most:
            nn.utils.clip_grad_norm_(wanted, most)
        optimizer = torch.optim.AdamW(parameters)
        module.gradient_norm = norm_of(gradients_of(optimizer)) if measured else None
        clip(module, optimizer, most, "norm")
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(parameters, wanted, strict=True))


def test_a_checkpoint_of_another_kernel_is_gone_on_from_with_ones_own() -> None:
    parameters = [nn.Parameter(torch.ones(3))]
    parameters[0].grad = torch.ones(3)
    states = {}
    for fused in (True, None):
        theirs = torch.optim.AdamW(parameters, lr=0.1, fused=fused)
        theirs.step()
        states[fused] = theirs.state_dict()
    ours = optimizer_of(partial(torch.optim.AdamW, lr=0.1), parameters, Bumpy([1.0], None))
    for state in states.values():
        ours.load_state_dict(copy.deepcopy(state))
        assert (ours.param_groups[0]["fused"], ours.state[parameters[0]]["step"].item()) == (None, 1)
        ours.step()
    assert states[True]["param_groups"][0]["fused"] is True  # left as it was

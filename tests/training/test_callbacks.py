"""Broken steps under the gradient scaler of fp16: a real scaler, optimizer and trainer."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sspir.batch import Batch
from sspir.errors import UserError
from sspir.training.callbacks import EMA
from sspir.training.progress import StepProgress
from sspir.training.updates import SkipNaN
from tests.devices import ACCELERATORS, DEVICES


class Steep(pl.LightningModule):
    """Trains two weights by a loss that rises with a slope."""

    def __init__(self, slope: float, fused: bool) -> None:
        super().__init__()
        self.layer, self.slope, self.fused = nn.Linear(2, 1, bias=False), slope, fused
        self.scales: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.scales.append(self.trainer.precision_plugin.scaler.get_scale())
        return self.slope * self.layer(batch.lq).float().sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1, fused=self.fused)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            [Batch(torch.ones(1, 2), torch.ones(1, 2), [""], ["a.png"])], collate_fn=lambda batches: batches[0]
        )


def fit(module: Steep, steps: int, device: str) -> SkipNaN:
    broken = SkipNaN(limit=3)
    pl.Trainer(
        accelerator=ACCELERATORS[device], devices=1, plugins=[MixedPrecision("16-mixed", device)], callbacks=[broken],
        max_steps=steps,
        gradient_clip_val=None if module.fused else 1.0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_epochs=-1,
    ).fit(module)  # fmt: skip
    return broken


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_may_look_for_its_scale(fused: bool, device: str) -> None:
    module = Steep(16.0, fused)
    before = module.layer.weight.detach().clone()
    broken = fit(module, 8, device)
    assert module.scales == [65536.0 / 2**n for n in range(6)] + [2048.0] * 2  # above that 16 * scale is no fp16 number
    assert (broken.overflowed, broken.skipped) == (5, 0)
    assert module.trainer.callback_metrics["overflowed_steps"] == 5
    assert torch.allclose(module.layer.weight.cpu(), before - 0.3, atol=0.01)  # three steps of Adam


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_that_is_used_up_stops_the_run(fused: bool, device: str) -> None:
    module = Steep(float("nan"), fused)
    before = module.layer.weight.detach().clone()
    with pytest.raises(
        UserError, match=r"3 steps in a row .* with the images a\.png; the last checkpoint is a good one"
    ):
        fit(module, 99, device)
    assert module.scales == [65536.0 / 2**n for n in range(20)]
    assert torch.equal(module.layer.weight.cpu(), before)


def test_an_average_forgets() -> None:
    for decay in (-0.1, 1, 2, float("nan")):
        with pytest.raises(UserError, match=r"callbacks\.ema\.decay: .* is no number from 0 to below 1\."):
            EMA(decay)
    assert EMA(0).decay == 0.0


def test_a_bar_of_a_training_by_epochs_has_no_length_and_a_label() -> None:
    bar, module = StepProgress(), Steep(1.0, fused=False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=[bar], logger=False, enable_checkpointing=False)
    bar.on_train_start(trainer, module)
    labels = []
    for moment in (bar.on_validation_start, bar.on_validation_end):
        moment(trainer, module)
        labels.append(bar.bar.desc)
    bar.on_train_end(trainer, module)
    assert bar.bar.total is None
    assert labels == ["validate: ", "train: "]

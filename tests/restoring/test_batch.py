"""How many photos are restored together, where their number is left to the memory that there is."""

from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sspir.__main__ import main
from sspir.images.io import read_image
from sspir.restoring import runner
from sspir.sampling.pipeline import RestorationPipeline
from tests.pipelines import tiny_pipeline, write_photo


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the groups that are restored."""
    seen: list[int] = []
    plain = RestorationPipeline.restore

    def noted(self: RestorationPipeline, lq: Tensor, *rest: object, **named: object) -> object:
        seen.append(len(lq))
        return plain(self, lq, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(RestorationPipeline, "restore", noted)
    return seen


def restored(folder: Path, *flags: str, photos: int = 8) -> Path:
    for number in range(photos):
        write_photo(folder / "in" / f"{number}.png", seed=number)
    weights = folder / "weights"
    if not weights.is_dir():
        tiny_pipeline().save_pretrained(weights)
    out = folder / "-".join(["out", *flags])
    assert (
        main(["restore", str(folder / "in"), "--out", str(out), "--weights", str(weights), "--steps", "1", *flags]) == 0
    )
    return out


def test_a_cpu_gains_nothing_by_batches(groups: list[int], tmp_path: Path) -> None:
    restored(tmp_path, "--batch", "auto", photos=3)
    assert groups == [1, 1, 1]


def test_the_first_photo_shows_how_many_there_is_memory_for(
    groups: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a CPU in the place of a GPU, where a photo takes what another has left."""
    calls = count()
    monkeypatch.setattr(runner, "_GAIN_BY_BATCHES", {"cpu"})
    monkeypatch.setattr(runner, "peak_bytes", lambda device: 1_000_000 * next(calls))
    monkeypatch.setattr(runner, "unheld_bytes", lambda device: 11_000_000)
    together = restored(tmp_path, "--batch", "auto")
    assert groups == [1, 7]  # seven tenths of eleven
    monkeypatch.setattr(runner, "unheld_bytes", lambda device: 1)
    groups.clear()
    alone = restored(tmp_path, "--batch", "auto", "--seed", "0")
    assert groups == [1] * 8
    for path in sorted(alone.glob("*.png")):
        one, other = (read_image(place).pixels.astype(int) for place in (path, together / path.name))
        assert abs(one - other).max() <= 1


def test_a_group_that_was_too_large_is_halved(
    groups: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RestorationPipeline.restore

    def small(self: RestorationPipeline, lq: Tensor, *rest: object, **named: object) -> object:
        if len(lq) > 2:
            groups.append(-len(lq))
            raise torch.OutOfMemoryError
        return plain(self, lq, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(RestorationPipeline, "restore", small)
    monkeypatch.setattr(runner, "_GAIN_BY_BATCHES", {"cpu"})
    monkeypatch.setattr(runner, "unheld_bytes", lambda device: 10**15)
    monkeypatch.setattr(runner, "_MOST", 4)
    restored(tmp_path, "--batch", "auto", photos=11)
    assert groups == [1, -4, 1, 1, 1, 1, 2, 2, 2]

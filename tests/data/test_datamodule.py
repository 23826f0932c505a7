"""The promises about order: reproducible, resumable in the middle of an epoch, shared out over ranks and workers."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from sspir.batch import Batch, name_of
from sspir.data import Crop, ImageFolder, Mixture, PairedFolder, RestorationDataModule
from sspir.data.order import EpochSampler, Position, Share
from sspir.degradation import Blur, Degradation, GaussianNoise, Resize, Truth
from sspir.errors import UserError
from sspir.evaluation import Benchmark

DEGRADATION = Degradation([Resize(["bicubic"], antialias=True), GaussianNoise([5, 20])], scale=2)


def module(folder: Path, **options: object) -> RestorationDataModule:
    train = ImageFolder(folder, Crop(16, rotate=True))
    validation = {"whole": ImageFolder(folder)}
    return RestorationDataModule(train, validation, DEGRADATION, batch_size=2, **options)  # type: ignore[arg-type]  # options of any type


class Recorder(pl.LightningModule):
    """Trains one weight and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[str], Tensor]] = []
        self.measured: list[Tensor] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.seen.append((self.current_epoch, batch.ids, torch.cat([batch.lq.flatten(), batch.hq.flatten()])))
        return (self.weight * batch.lq.mean()).sum()

    def validation_step(self, batch: Batch, index: int) -> None:
        self.measured.append(batch.lq)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, root: Path, model: Recorder, checkpoint: Path | None = None, **options: object) -> Recorder:
    saver = pl.callbacks.ModelCheckpoint(
        root, "{step}", every_n_train_steps=3, save_top_k=-1, save_on_train_epoch_end=False
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[saver], logger=False, use_distributed_sampler=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, module(folder, **options), ckpt_path=checkpoint)
    return model


@pytest.mark.parametrize("step", [6, 9])
def test_resumed_training_sees_what_was_left(folder: Path, tmp_path: Path, step: int) -> None:
    whole = fit(folder, tmp_path / "a", Recorder())
    assert len(whole.seen) == 15
    checkpoint = tmp_path / "a" / f"step={step}.ckpt"
    rest = fit(folder, tmp_path / "b", Recorder(), checkpoint)
    assert len(rest.seen) == 15 - step
    for (epoch, ids, values), (epoch2, ids2, values2) in zip(whole.seen[step:], rest.seen, strict=True):
        assert (epoch, ids) == (epoch2, ids2)
        assert torch.equal(values, values2)


def test_workers_change_nothing(folder: Path, tmp_path: Path) -> None:
    alone = fit(folder, tmp_path / "a", Recorder())
    helped = fit(folder, tmp_path / "b", Recorder(), workers=2)
    for (_, ids, values), (_, ids2, values2) in zip(alone.seen, helped.seen, strict=True):
        assert ids == ids2
        assert torch.equal(values, values2)


@pytest.mark.parametrize("captions", [None, "beside", "table"])
def test_loaders_can_be_sent_to_workers_that_are_not_forked(folder: Path, tmp_path: Path, captions: str | None) -> None:
    """Windows and macOS start workers afresh, and send them what to load by pickle."""
    table = tmp_path / "captions.jsonl"
    table.write_text('{"file_name": "0/0.png", "caption": "a dog"}\n')
    source = str(table) if captions == "table" else captions
    data = module(folder, degrade_in_workers=True)
    data.train = Mixture([ImageFolder(folder, Crop(16), source)], [1])
    data.setup("fit")
    loaders = [data.train_dataloader(), *data.val_dataloader()]
    for loader in loaders:
        dataset, collated, _ = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn)))
        indices = next(iter(loader.batch_sampler))
        theirs = collated([dataset[index] for index in indices])
        ours = loader.collate_fn([loader.dataset[index] for index in indices])
        assert torch.equal(theirs["hq"], ours["hq"])
        assert theirs["captions"] == ours["captions"]


def test_another_seed_is_another_training(folder: Path, tmp_path: Path) -> None:
    assert [s[1] for s in fit(folder, tmp_path / "a", Recorder()).seen] != [
        s[1] for s in fit(folder, tmp_path / "b", Recorder(), seed=1).seen
    ]


def test_validation_is_the_same_in_every_epoch_and_run(folder: Path, tmp_path: Path) -> None:
    first = fit(folder, tmp_path / "a", Recorder()).measured
    second = fit(folder, tmp_path / "b", Recorder(), seed=1).measured
    assert len(first) == 30
    for i, lq in enumerate(first):
        assert torch.equal(lq, first[i % 10])
        assert torch.equal(lq, second[i])


def positions(world: int, batch: int = 0, epoch: int = 0) -> list[Position]:
    return [Position(epoch, batch, rank, world) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_epoch_without_overlap(world: int) -> None:
    samplers = [EpochSampler(torch.ones(12), 2, 0, lambda p=p: p) for p in positions(world)]
    photos = [key.photo for sampler in samplers for batch in sampler for key in batch]
    assert sorted(photos) == list(range(12))
    assert all(len(list(sampler)) == len(sampler) for sampler in samplers)


def test_weights_are_met_exactly_for_whole_numbers_and_on_average_for_parts() -> None:
    sampler = EpochSampler(torch.tensor([2.0, 1.0, 0.25, 0.25, 0.25, 0.25]), 1, 0, lambda: Position(0, 0))
    epochs = [sampler.order(epoch)[0].tolist() for epoch in range(400)]
    assert {len(epoch) for epoch in epochs} == {4}
    counts = torch.tensor([[epoch.count(photo) for photo in range(6)] for epoch in epochs]).double()
    assert (counts[:, 0] == 2).all()
    assert (counts[:, 1] == 1).all()
    assert counts[:, 2:].mean(0).sub(0.25).abs().max() < 0.1


def test_copies_of_a_photo_in_one_epoch_are_cut_and_degraded_differently(folder: Path) -> None:
    data = module(folder, passes=3)
    batches = [data.prepare(batch, training=True) for batch in data.train_dataloader()]
    assert len(batches) == 15
    lows = [low for batch in batches for low, name in zip(batch.lq, batch.ids, strict=True) if name == "0/0.png"]
    assert len(lows) == 3
    assert not torch.equal(lows[0], lows[1])


def test_too_few_photos_say_what_to_do(folder: Path) -> None:
    data = RestorationDataModule(ImageFolder(folder, Crop(16)), {}, DEGRADATION, batch_size=11)
    with pytest.raises(UserError, match="passes"):
        list(data.train_dataloader())


def test_pairs_are_not_degraded(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.png"):
        small = tmp_path / "lq" / path.relative_to(folder)
        small.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        Image.new("RGB", (image.width // 2, image.height // 2), "red").save(small)
        image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2)).save(path)
    pairs = PairedFolder(tmp_path / "lq", folder, Crop(16))
    data = RestorationDataModule(Mixture([pairs], [2.0]), {"pairs": pairs}, DEGRADATION, batch_size=2)
    batch = data.prepare(next(iter(data.train_dataloader())), training=True)
    assert batch.lq.shape == (2, 3, 8, 8)
    assert torch.equal(batch.lq[:, 0], torch.ones(2, 8, 8))
    assert not batch.lq[:, 1:].any()


def test_sharpened_truth_is_what_is_degraded(folder: Path) -> None:
    plain, sharp = module(folder), module(folder, sharpen_hq=True)
    batch = next(iter(plain.train_dataloader()))
    before, after = plain.prepare(batch, training=True), sharp.prepare(batch, training=True)
    assert not torch.equal(before.hq, after.hq)
    assert torch.equal(DEGRADATION(after.hq, batch["seeds"]), after.lq)
    assert torch.equal(sharp.prepare(batch, training=False).hq, before.hq)


def test_a_degradation_s_own_truth_is_what_is_trained_on_and_measured(folder: Path) -> None:
    photos = ImageFolder(folder, Crop(16))
    soft = Blur([7, 7], {"iso": 1.0}, [0.9, 1.1])
    degradation = Degradation([Truth([soft]), *DEGRADATION.chain.operations], scale=2)
    data = RestorationDataModule(photos, {"whole": photos}, degradation, batch_size=2)
    loaded, measured = next(iter(data.train_dataloader())), Benchmark("photos", photos, degradation)[0]
    for training in (True, False):
        batch = data.prepare(loaded, training=training)
        steps = [degradation.draw(seed, (16, 16)) for seed in loaded["seeds"]]
        assert torch.equal(batch.hq, soft.apply(loaded["hq"], [first for first, *_ in steps]))
        assert torch.equal(batch.lq, degradation(loaded["hq"], loaded["seeds"]))
    assert 0 < measured.hq.std() < 0.9 * photos[0]["hq"].std()


def test_pairs_made_in_workers_are_the_same(folder: Path, tmp_path: Path) -> None:
    here = fit(folder, tmp_path / "a", Recorder(), sharpen_hq=True)
    there = fit(folder, tmp_path / "b", Recorder(), sharpen_hq=True, degrade_in_workers=True, workers=1)
    for (_, ids, values), (_, ids2, values2) in zip(here.seen, there.seen, strict=True):
        assert ids == ids2
        assert torch.equal(values, values2)


@pytest.mark.parametrize(("photos", "batch", "world"), [(7, 2, 3), (1, 1, 4), (8, 1, 2), (5, 5, 2)])
def test_ranks_share_validation_photos_and_each_counts_once(photos: int, batch: int, world: int) -> None:
    shares = [Share(photos, batch, rank, world) for rank in range(world)]
    assert len({len(list(share)) for share in shares}) == len({len(share) for share in shares}) == 1
    counted = {
        share.place(number): indices for share in shares for number, indices in enumerate(share) if share.counts(number)
    }
    assert [counted[place] for place in sorted(counted)] == list(Share(photos, batch))  # as one process has them
    assert len(Share(photos, batch, 0, world, limit=1)) == 1


def test_a_rank_reads_its_share_of_the_validation_photos_alone(folder: Path) -> None:
    seen = []
    for rank in range(2):
        data = module(folder)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, limit_val_batches=3, strategy=None)  # type: ignore[assignment]
        seen.append([batch["ids"][0] for batch in data.val_dataloader()[0]])
    whole = [batch["ids"][0] for batch in module(folder).val_dataloader()[0]]
    assert seen == [[whole[0], whole[2]], [whole[1], whole[0]]]


@pytest.mark.parametrize(
    ("sample_id", "name"),
    [
        ("/a/../b.png", "a/b.png"),
        ("a\0b\nc/d.png", "a_b_c/d.png"),
        ("n" * 200, "n" * 200),
        ("a/" + "ä" * 120 + ".png", "a/" + "ä" * 40 + "-5ba38fdd00e99409.png"),
    ],
)
def test_any_id_names_a_file_that_can_be_written(sample_id: str, name: str, tmp_path: Path) -> None:
    assert name_of(sample_id) == name
    assert name_of(name) == name
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / f"{name}-step0000001.png").touch()


def test_whole_paths_as_ids_are_warned_of_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(folder)
    loaded = next(iter(data.val_dataloader()[0]))
    data.on_after_batch_transfer(loaded, 0)
    assert "whole path" not in caplog.text
    for number in range(2):
        data.on_after_batch_transfer({**loaded, "ids": [f"/photos/{number}.png"]}, 0)
    assert caplog.text.count("A sample's id is the whole path /photos/0.png, of which its draws are seeded") == 1

"""Data sets that can be counted and indexed, and no more."""

import numpy as np
import pytest
import torch

from sspir.data import Crop, CroppedPhotos, ImageFolder, Mixture, Photo, RestorationDataModule
from sspir.data.manifest import manifest_of
from sspir.data.sample import photos_of
from sspir.degradation import Degradation, Resize
from sspir.errors import UserError
from sspir.evaluation import Benchmark
from tests.pipelines import photo, write_photo

DEGRADATION = Degradation([Resize(["bicubic"])], 4)


def samples() -> list[dict]:
    return [{"id": f"{n}.png", "hq": photo(16, 16, seed=n), "caption": f"number {n}"} for n in range(4)]


def test_a_list_is_trained_on_validated_and_measured() -> None:
    ours = samples()
    data = RestorationDataModule(ours, {"photos": ours}, DEGRADATION, batch_size=2, degrade_in_workers=True)
    for loader, count in ((data.train_dataloader(), 2), (data.val_dataloader()[0], 4)):
        batches = [data.prepare(batch, training=True) for batch in loader]
        assert len(batches) == count
        assert {batch.lq.shape[1:] for batch in batches} == {(3, 4, 4)}
        assert sorted(name for batch in batches for name in batch.ids) == [f"{n}.png" for n in range(4)]
    assert all(each.keys() == {"id", "hq", "caption"} for each in ours)  # what is kept in memory is as it was
    batch = Benchmark("mine", ours, DEGRADATION)[1]
    assert (batch.ids, batch.captions) == (["1.png"], ["number 1"])
    assert torch.equal(batch.hq[0], ours[1]["hq"])
    assert manifest_of({"train": data.train})["train"]["photos"] == 4


@pytest.mark.parametrize(
    ("given", "name"),
    [("a/b.png", "a/b.png"), ("/photos/b.png", "photos/b.png"), ("../../b", "b"), ("a/../../b", "a/b"), (3, "3")],
)
def test_an_id_is_a_name_below_any_folder(given: object, name: str) -> None:
    ours = [{**samples()[0], "id": given}]
    data = RestorationDataModule(ours, {"photos": ours}, DEGRADATION, batch_size=1)
    for loader in (data.train_dataloader(), data.val_dataloader()[0]):
        assert [data.prepare(batch, training=False).ids for batch in loader] == [[name]]
    assert Benchmark("mine", ours, DEGRADATION)[0].ids == [name]


@pytest.mark.parametrize("given", ["", "..", "/"])
def test_an_id_that_names_nothing_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=f"A sample's id is {given!r}, which names no picture"):
        Benchmark("mine", [{**samples()[0], "id": given}], DEGRADATION)[0]


def test_a_changed_set_is_noticed_where_it_says_what_it_holds() -> None:
    class Told(list):
        def contents(self) -> list[tuple[str, str]]:
            return [(sample["id"], "") for sample in self]

    few = Told(samples()[:2])
    assert manifest_of({"train": photos_of(few)}) != manifest_of({"train": photos_of(Told(reversed(few)))})
    assert list(photos_of(few).contents()) == [("0.png", ""), ("1.png", "")]


def test_a_class_that_reads_photos_may_say_no_more_than_that() -> None:
    class Two(CroppedPhotos):
        def __len__(self) -> int:
            return 2

        def load(self, index: int) -> Photo:
            return Photo(f"{index}.png", "", np.full((40, 40, 3), index, np.uint8))

    data = RestorationDataModule(Two(Crop(16)), {}, DEGRADATION, batch_size=2)
    (batch,) = data.train_dataloader()
    assert data.prepare(batch, training=True).hq.shape == (2, 3, 16, 16)
    assert manifest_of({"train": data.train})["train"]["photos"] == 2


def test_it_is_mixed_with_folders(tmp_path) -> None:
    write_photo(tmp_path / "a.png", 16, 16)
    folder = ImageFolder(tmp_path)
    mixed = Mixture([samples(), folder], weights=[1, 2])
    assert mixed.weights().tolist() == [1, 1, 1, 1, 2]
    assert [mixed.view(n, 0)["id"] for n in range(5)] == ["0.png", "1.png", "2.png", "3.png", "a.png"]
    assert len(list(mixed.contents())) == 5
    assert photos_of(folder) is folder

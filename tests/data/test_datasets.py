"""Folders, pairs, captions, crops, mixtures and shards."""

import json
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from torch.utils.data import DataLoader

from sspir.captioners.folder import CaptionTable
from sspir.captioners.tables import find_captions
from sspir.config.compose import compose_config
from sspir.data import Crop, ImageFolder, Mixture, PairedFolder, Shards, photos
from sspir.data.loading import TrainingViews, collate
from sspir.data.order import EpochSampler, Position
from sspir.data.paired_folder import match_pairs
from sspir.data.sample import Sample
from sspir.data.shards import ShardWriter, pack
from sspir.degradation import Degradation, Resize
from sspir.errors import UserError
from sspir.evaluation import Benchmark
from sspir.evaluation.pairing import match
from sspir.images.io import list_images
from tests.needs import needs
from tests.pipelines import write_photo


def test_two_folders_are_two_sets_and_one_is_split(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("other", 1), ("both", 4)):
        for index in range(count):
            write_photo(tmp_path / name / f"{index}.png")
    one, other, both = (str(tmp_path / name) for name in ("one", "other", "both"))
    assert len(photos("train", one, other_root=other)) == len(photos("validation", other, other_root=one)) == 1
    halves = photos("train", both, other_root=both), photos("validation", both, other_root=f"{both}/../both")
    assert sorted(name for half in halves for _, name in half.files) == ["0.png", "1.png", "2.png", "3.png"]
    with pytest.raises(UserError, match="1 photos are too few"):
        photos("train", one, other_root=one)


def test_photos_to_validate_with_are_taken_alone_and_never_trained_on(tmp_path: Path) -> None:
    for index in range(6):
        write_photo(tmp_path / ("val" if index < 4 else "more") / f"{index}.png")
    assert len(photos("validation", str(tmp_path))) == 4
    assert len(photos("train", f"{tmp_path}/more", other_root=str(tmp_path))) == 2
    assert len(photos("validation", str(tmp_path), other_root="")) == 6
    with pytest.raises(UserError, match="has a folder val, but none called train"):
        photos("train", str(tmp_path))


@pytest.mark.parametrize("dataset", ["shards", "taught"])
def test_beside_a_packed_set_photos_to_validate_with_are_those_of_val_alone(dataset: str, tmp_path: Path) -> None:
    for index in range(6):
        write_photo(tmp_path / ("val" if index < 4 else ".") / f"{index}.png")
    given = [f"dataset={dataset}", f"dataset.validation.photos.root={tmp_path}"]
    chosen = compose_config("train", given).dataset.validation.photos
    assert len(instantiate(chosen)) == 4
    (tmp_path / "val").rename(tmp_path / "more")
    with pytest.raises(InstantiationException, match="has no folder val; put photos to validate on there"):
        instantiate(chosen)


def test_image_folder_reads_whole_photos(folder: Path) -> None:
    data = ImageFolder(folder)
    assert len(data) == 10
    sample = data[0]
    assert sample["id"] == "0/0.png"
    pixels = torch.from_numpy(np.array(Image.open(folder / "0" / "0.png")))
    assert torch.equal((sample["hq"] * 255).round().byte().permute(1, 2, 0), pixels)
    assert ImageFolder([folder / "0", folder / "1"])[0]["id"] == "0.png"


def test_pairs_are_one_tensor_and_do_not_mix_with_photos_alone() -> None:
    photo: Sample = {"id": "a", "hq": torch.rand(3, 16, 16), "caption": ""}
    pair: Sample = {**photo, "lq": torch.rand(3, 4, 4)}
    assert torch.equal(collate([(pair, 0, []), (pair, 1, [])])["lq"], torch.stack([pair["lq"]] * 2))
    assert collate([(photo, 0, []), (photo, 1, [])])["lq"] is None
    with pytest.raises(UserError, match=r"mixes pairs and photos"):
        collate([(pair, 0, []), (photo, 1, [])])


def test_views_depend_on_the_seed_alone(folder: Path) -> None:
    data = ImageFolder(folder, Crop(16, resize=(0.5, 1.5), rotate=True), cache=True)
    views = [data.view(3, seed)["hq"] for seed in range(20)]
    assert all(view.shape == (3, 16, 16) for view in views)
    assert torch.equal(views[7], ImageFolder(folder, data.crop).view(3, 7)["hq"])
    assert len({view.sum().item() for view in views}) == 20


def test_cache_has_a_bound(folder: Path) -> None:
    data = ImageFolder(folder, cache=True, cache_gb=3 * 40 * 40 * 3 / 1e9)
    for i in range(10):
        assert torch.equal(data[i]["hq"], ImageFolder(folder)[i]["hq"])
    assert 0 < len(data.read.kept) < 4
    assert sum(pixels.nbytes for pixels in data.read.kept.values()) <= 3 * 40 * 40 * 3


def test_small_photos_are_filtered_or_enlarged(folder: Path) -> None:
    assert len(ImageFolder(folder, min_size=40)) == 6
    assert ImageFolder(folder, Crop(64)).view(0, 0)["hq"].shape == (3, 64, 64)
    with pytest.raises(UserError, match="min_size"):
        ImageFolder(folder, min_size=41)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no images"):
        ImageFolder(tmp_path)


def test_random_crops_cover_the_photo_and_its_mirror() -> None:
    pixels = np.arange(25, dtype=np.uint8).reshape(5, 5, 1).repeat(3, axis=2)
    corners = {int(Crop(2).random(pixels, None, seed)[0][0, 0, 0]) for seed in range(400)}
    assert corners == {row * 5 + column for row in range(4) for column in range(5)}
    plain = {int(Crop(2, flip=False).random(pixels, None, seed)[0][0, 0, 0]) for seed in range(400)}
    assert plain == {row * 5 + column for row in range(4) for column in range(4)}
    assert Crop(3).centre(pixels)[0][1, 1, 0] == 12


def make_pairs(root: Path, names: list[str], scale: int = 2) -> tuple[Path, Path]:
    generator = np.random.default_rng(1)
    for name in names:
        small = generator.integers(0, 256, (12, 14, 3), dtype=np.uint8)
        for kind, pixels in (("lq", small), ("hq", small.repeat(scale, axis=0).repeat(scale, axis=1))):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / kind / name)
    return root / "lq", root / "hq"


def test_pairs_are_cut_at_the_same_place(tmp_path: Path) -> None:
    data = PairedFolder(*make_pairs(tmp_path, ["a/1.png", "b/1.png"]), Crop(8, rotate=True))
    for seed in range(30):
        sample = data.view(seed % 2, seed)
        assert torch.equal(sample["lq"].repeat_interleave(2, 1).repeat_interleave(2, 2), sample["hq"])
    assert data[0]["lq"].shape == (3, 4, 4)


def test_unpaired_photos_are_listed(tmp_path: Path) -> None:
    lq, hq = make_pairs(tmp_path, ["1.png", "2.png", "3.png"])
    (lq / "2.png").unlink()
    (hq / "3.png").unlink()
    with pytest.raises(UserError, match=r"2 \(no low\), 3 \(no high\)"):
        PairedFolder(lq, hq)


def test_pairs_match_by_stem_and_refuse_two_of_one_stem(tmp_path: Path) -> None:
    lq, hq = make_pairs(tmp_path, ["1.png"])
    Image.open(hq / "1.png").save(hq / "1.bmp")
    with pytest.raises(UserError, match="suffix"):
        PairedFolder(lq, hq)
    (hq / "1.png").unlink()
    assert len(PairedFolder(lq, hq)) == 1


def test_pairs_of_no_whole_scale_are_refused(tmp_path: Path) -> None:
    lq, hq = make_pairs(tmp_path, ["1.png"])
    Image.open(hq / "1.png").crop((0, 0, 27, 24)).save(hq / "1.png")
    with pytest.raises(UserError, match="whole multiple"):
        PairedFolder(lq, hq)[0]


def test_captions_beside_and_in_tables(folder: Path, tmp_path: Path) -> None:
    (folder / "0" / "2.txt").write_text("a dog\n")
    assert [ImageFolder(folder, captions="beside")[i]["caption"] for i in range(2)] == ["", "a dog"]
    table = tmp_path / "captions.jsonl"
    table.write_text(json.dumps({"file_name": "0/0.png", "caption": "ein Hündchen"}) + "\n")
    assert ImageFolder(folder, captions=str(table))[0]["caption"] == "ein Hündchen"
    table.write_text(json.dumps({"name": "0/0.png"}))
    with pytest.raises(UserError, match="file_name"):
        find_captions(table)
    table.write_text('{"file_name": "0/0.png", "caption": "a"}\n\n{"file_name": "0/2.png", "caption": "a "cat""}\n')
    with pytest.raises(UserError, match=rf"Line 3 of {table} cannot be read; it must be JSON .* delete the line"):
        find_captions(table)
    with pytest.raises(UserError, match="missing"):
        find_captions(tmp_path / "none.jsonl")


def test_captions_that_fit_no_photo_are_refused_and_some_are_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "captions.jsonl"
    table.write_text(json.dumps({"file_name": "photos/0/0.png", "caption": "a cat"}) + "\n")
    with pytest.raises(UserError, match=r"fit none of \d+ photos.* photos/0/0.png, a photo is called 0/0.png"):
        ImageFolder(folder, captions=str(table))
    with table.open("a") as file:
        file.write(json.dumps({"file_name": "0/0.png", "caption": "a dog"}) + "\n")
    assert ImageFolder(folder, captions=str(table))[0]["caption"] == "a dog"
    assert re.search(r"1 of \d+ photos have one, not \S+; unmatched lines: first photos/0/0.png", caplog.text)


def test_names_are_compared_in_one_form_of_unicode(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Größe.png") for form in ("NFC", "NFD"))
    lq, hq = make_pairs(tmp_path, [composed])
    (lq / composed).rename(lq / apart)
    assert match_pairs(lq, hq) == [(lq / apart, hq / composed)]
    assert match({"ours": lq}, hq)[1] == []
    table = tmp_path / "captions.jsonl"
    for written, root in ((apart, hq), (composed, lq)):
        table.write_text(json.dumps({"file_name": written, "caption": "a tower"}) + "\n")
        assert ImageFolder(root, captions=str(table), names=[written])[0]["caption"] == "a tower"
        assert CaptionTable(table).rows.keys() == {composed}


def test_captions_in_parquet(folder: Path, tmp_path: Path) -> None:
    pa, parquet = needs("pyarrow", "parquet"), needs("pyarrow.parquet", "parquet")
    parquet.write_table(pa.table({"file_name": ["0/0.png"], "caption": ["a cat"]}), tmp_path / "c.parquet")
    assert find_captions(tmp_path / "c.parquet")(folder, "0/0.png") == "a cat"


def test_mixture_finds_each_photo(folder: Path) -> None:
    mixture = Mixture([ImageFolder(folder / "0"), ImageFolder(folder / "1")], [1, 2])
    assert [mixture[i]["id"] for i in (0, 4, 5, 9)] == ["0.png", "8.png", "1.png", "9.png"]
    assert mixture.weights().tolist() == [1.0] * 5 + [2.0] * 5


def test_photos_split_by_hash_and_by_folders(folder: Path) -> None:
    train, validation = (photos(split, str(folder)) for split in ("train", "validation"))  # type: ignore[arg-type]  # literals
    names = [{name for _, name in data.files} for data in (train, validation)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 10
    (folder / "0").rename(folder / "train")
    (folder / "1").rename(folder / "val")
    assert len(photos("train", str(folder))) == 5


def test_photos_of_scikit_image_are_there() -> None:
    assert (len(photos("train")), len(photos("validation"))) == (6, 2)


def test_benchmark_cuts_to_a_multiple_of_the_scale_and_repeats(folder: Path) -> None:
    benchmark = Benchmark("ten", ImageFolder(folder), Degradation([Resize(["bicubic"])], scale=3))
    batch = benchmark[1]
    assert (batch.hq.shape, batch.lq.shape) == ((1, 3, 39, 36), (1, 3, 13, 12))
    assert torch.equal(batch.lq, benchmark[1].lq)
    assert len(list(benchmark)) == len(benchmark) == 10


def packed(folder: Path, out: Path) -> Shards:
    (folder / "1" / "3.txt").write_text("three")
    writer = ShardWriter(out, shard_bytes=12_000)
    files = ((path, path.relative_to(folder).as_posix()) for path in list_images(folder))
    assert pack(files, find_captions("beside"), writer) == []
    return Shards(out, Crop(16))


def test_shards_give_what_the_folder_gives(folder: Path, tmp_path: Path) -> None:
    shards = packed(folder, tmp_path / "shards")
    plain = ImageFolder(folder, Crop(16), captions="beside")
    assert len(shards.shards) > 2
    for i in range(10):
        for a, b in ((shards[i], plain[i]), (shards.view(i, 5), plain.view(i, 5))):
            assert (a["id"], a["caption"]) == (b["id"], b["caption"])
            assert torch.equal(a["hq"], b["hq"])


def test_shards_are_plain_tar_files_with_webdataset_names(folder: Path, tmp_path: Path) -> None:
    import tarfile

    shards = packed(folder, tmp_path / "shards")
    names = []
    for path in shards.shards:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert names == [f"{i:09d}.{suffix}" for i in range(10) for suffix in ("png", "json")]


def test_shards_read_by_two_ranks_and_two_workers_cover_every_sample_once(folder: Path, tmp_path: Path) -> None:
    views = TrainingViews(packed(folder, tmp_path / "shards"), seed=0)
    for epoch in range(2):
        names = []
        for rank in range(2):
            position = Position(epoch, 0, rank, 2)
            sampler = EpochSampler(torch.ones(10), 1, 0, lambda p=position: p)  # type: ignore[misc]  # of a lambda
            loader = DataLoader(views, batch_sampler=sampler, num_workers=2, collate_fn=collate)
            names += [name for batch in loader for name in batch["ids"]]
        assert sorted(names) == sorted(name for _, name in ImageFolder(folder).files)


def test_incomplete_shards_are_refused(folder: Path, tmp_path: Path) -> None:
    shards = packed(folder, tmp_path / "shards")
    data = shards.shards[0].read_bytes()
    shards.shards[0].write_bytes(data[:-1])
    with pytest.raises(UserError, match="shard-000000"):
        Shards(tmp_path / "shards")
    shutil.rmtree(tmp_path / "shards")
    with pytest.raises(UserError, match="sspir pack"):
        Shards(tmp_path / "shards")

"""The manifest of a data set: the same for a copy, another one for other photos."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sspir.data import ImageFolder, Mixture, PairedFolder, Shards, photos
from sspir.data.manifest import difference, manifest_of
from sspir.data.sample import Photos
from sspir.data.shards import ShardWriter


def pack(folder: Path, photos: Path) -> Shards:
    writer = ShardWriter(folder, 10_000)
    for path in sorted(photos.iterdir()):
        writer.add(path.name, path.read_bytes(), "")
    writer.close()
    return Shards(folder)


def dataset(kind: str, root: Path) -> Photos:
    if kind == "shards":
        shutil.rmtree(root / "shards", ignore_errors=True)
        return pack(root / "shards", root / "hq")
    folder = ImageFolder(root / "hq")
    return {"folder": folder, "pairs": PairedFolder(root / "lq", root / "hq"), "mixture": Mixture([folder, folder])}[
        kind
    ]


@pytest.mark.parametrize("kind", ["folder", "pairs", "mixture", "shards"])
def test_a_copy_has_the_manifest_of_its_original_and_a_changed_photo_shows(kind: str, tmp_path: Path) -> None:
    for role, size in (("hq", 32), ("lq", 8)):
        (tmp_path / "one" / role).mkdir(parents=True)
        for index in range(3):
            Image.effect_noise((size, size), 40 + index).convert("RGB").save(tmp_path / "one" / role / f"{index}.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = manifest_of({"train": dataset(kind, tmp_path / "one")})
    assert manifest_of({"train": dataset(kind, tmp_path / "two")}) == before
    assert difference(before, before) == ""
    Image.new("RGB", (32, 32)).save(tmp_path / "two" / "hq" / "1.png")
    after = manifest_of({"train": dataset(kind, tmp_path / "two")})
    assert difference(before, after) == f"the {before['train']['photos']} photos of train have other names or sizes"


def test_sets_and_counts_are_named() -> None:
    before = {"train": {"photos": 3, "hash": "a"}, "val": {"photos": 1, "hash": "b"}}
    assert difference(before, {"train": {"photos": 2, "hash": "c"}}) == "train had 3 photos, now 2; val was there"


def test_a_name_that_is_no_utf_8_is_split_and_counted_like_any(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    for index, file in enumerate((name, "a.png", "b.png")):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / file)
    sides = {"train": photos("train", str(tmp_path)), "validation": photos("validation", str(tmp_path))}
    assert sorted(file for side in sides.values() for file, _ in side.contents()) == ["a.png", "b.png", name]
    before = manifest_of(sides)
    (tmp_path / name).write_bytes(b"longer than it was" * 100)
    assert difference(before, manifest_of(sides))

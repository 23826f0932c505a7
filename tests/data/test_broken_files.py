"""A broken file is skipped, counted and named; too many of them stop the run."""

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspir.data import Crop, ImageFolder, PairedFolder, RestorationDataModule
from sspir.data.manifest import difference, manifest_of
from sspir.degradation import Degradation, Resize
from sspir.errors import UserError

DEGRADATION = Degradation([Resize(["bicubic"])], scale=2)


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def bad_files() -> dict[str, bytes]:
    """Thirty files that are called images and cannot be read as one."""
    png, jpeg, webp, tiff, bmp = (encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"))
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    animated, pages = io.BytesIO(), io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    floating = io.BytesIO()
    Image.fromarray(np.ones((8, 8), np.float32)).save(floating, "TIFF")
    files = {
        "empty.png": b"", "empty.jpg": b"", "zeros.png": bytes(1000), "one_byte.jpg": b"\xff", "text.png": b"hello",
        "page.jpg": b"<!DOCTYPE html><html></html>", "drawing.png": b"<svg></svg>", "pdf.png": b"%PDF-1.4 nothing",
        "jxl.png": b"\xff\x0a" + bytes(50), "exr.tif": b"v/1\x01" + bytes(50), "hdr.png": b"#?RADIANCE\n" + bytes(40),
        "animated.png": animated.getvalue(), "pages.tif": pages.getvalue(), "float.tif": floating.getvalue(),
        "magic_only.png": png[:8], "header_only.png": png[:33], "flipped.png": png[:60] + bytes(4) + png[64:],
        "jpeg_magic.jpg": jpeg[:4], "webp_magic.webp": webp[:12], "bmp_magic.bmp": bmp[:14], "tiff_magic.tif": tiff[:8],
        "json.webp": b"{}", "zip.png": b"PK\x03\x04" + bytes(60), "spaces.jpg": b" " * 500, "newline.bmp": b"\n",
    }  # fmt: skip
    for name, data in (("png", png), ("jpg", jpeg), ("webp", webp), ("bmp", bmp), ("tif", tiff)):
        files[f"half.{name}"] = data[: len(data) // 2]
    assert len(files) == 30
    return files


@pytest.fixture
def mixed(folder: Path) -> Path:
    """The ten good photos and thirty bad files."""
    (folder / "bad").mkdir()
    for name, data in bad_files().items():
        (folder / "bad" / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_files_are_skipped_and_named_at_the_end(
    mixed: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = RestorationDataModule(ImageFolder(mixed, Crop(16)), {}, DEGRADATION, 4, workers=workers, max_broken=0.9)
    with caplog.at_level(logging.WARNING):
        batches = [data.prepare(batch, training=True) for batch in data.train_dataloader()]
    assert len(batches) == 10
    assert all(len(batch) == 4 and batch.hq.isfinite().all() for batch in batches)
    assert not any("bad" in name for batch in batches for name in batch.ids)
    (report,) = [record.getMessage() for record in caplog.records]
    assert report.startswith("30 of 40 photos")
    for name in bad_files():
        assert name in report


def test_a_link_to_nowhere_is_a_bad_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    photos = ImageFolder(folder, Crop(16))
    before = manifest_of({"train": photos})
    assert before["train"]["photos"] == 11
    data = RestorationDataModule(photos, {}, DEGRADATION, 1, max_broken=0.9)
    list(data.train_dataloader())
    assert "1 of 11 photos" in caplog.text
    assert "link.png cannot be read" in caplog.text
    Image.new("RGB", (32, 32)).save(folder / "nowhere.png")
    assert difference(before, manifest_of({"train": photos})) == "the 11 photos of train have other names or sizes"


@pytest.mark.parametrize("pairs", [False, True])
def test_a_link_to_nowhere_among_validation_photos_is_told_before_the_training(folder: Path, pairs: bool) -> None:
    lq = Path(shutil.copytree(folder, folder.parent / "lq"))
    (lq / "0" / "0.png").unlink()
    (lq / "0" / "0.png").symlink_to(folder / "nowhere.png")
    measured = PairedFolder(lq, folder) if pairs else ImageFolder(lq)
    with pytest.raises(
        UserError, match=r"dataset\.validation\.mine has links to nowhere, first 0/0\.png; mend or delete"
    ):
        RestorationDataModule(ImageFolder(folder), {"mine": measured}, DEGRADATION, 1)


def test_too_many_bad_files_stop_the_run(mixed: Path) -> None:
    data = RestorationDataModule(ImageFolder(mixed, Crop(16)), {}, DEGRADATION, 4, max_broken=0.5)
    with pytest.raises(UserError, match="max_broken"):
        list(data.train_dataloader())


def test_good_epochs_say_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = RestorationDataModule(ImageFolder(folder, Crop(16)), {}, DEGRADATION, 2)
    with caplog.at_level(logging.WARNING):
        list(data.train_dataloader())
    assert caplog.records == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_stops_validation_with_one_sentence(mixed: Path, workers: int) -> None:
    photos = ImageFolder(mixed / "bad")
    data = RestorationDataModule(photos, {"bad": photos}, DEGRADATION, 2, workers=workers)
    with pytest.raises(UserError) as caught:
        list(data.val_dataloader()[0])
    assert "animated.png" in str(caught.value)
    assert "\n" not in str(caught.value)

"""Files of phones and cameras: HEIC, AVIF, JPEG XL and RAW."""

import contextlib
import io
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sspir.images.exif import without_gps
from sspir.images.hdr import Coding, to_srgb
from sspir.images.io import ImageError, Picture, list_images, read_image, read_size, write_image
from tests.images.test_io import SRGB, wide_gamut_profile
from tests.images.written import COLOUR, DEEP, box, dng, exif_block, frames, heic, jxl, jxl_header, photo
from tests.needs import needs

KINDS = ("heic", "avif", "jxl", "dng")


def read(tmp_path: Path, content: bytes, name: str = "a photo", **options: int) -> Picture:
    (tmp_path / name).write_bytes(content)
    return read_image(tmp_path / name, **options)


def distance(picture: Picture, expected: np.ndarray) -> float:
    """Mean of the differences, in levels of 8 bits."""
    assert picture.pixels.shape == expected.shape
    return float(np.abs(picture.pixels * (255 / picture.peak) - expected).mean())


# Reading what is fine


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_that_were_written(tmp_path: Path, kind: str) -> None:
    picture = read(tmp_path, photo(kind))
    assert picture.pixels.dtype == (np.uint16 if kind == "dng" else np.uint8)
    assert distance(picture, COLOUR) < {"heic": 1, "avif": 2, "jxl": 1e-9, "dng": 9}[kind]
    assert not picture.grey
    told = ["Developed from RAW with the camera's white balance and automatic brightness."]
    assert picture.warnings == (told if kind == "dng" else [])
    assert read_size(tmp_path / "a photo") == (64, 96)


@pytest.mark.parametrize("twelve", [False, True])
def test_deep_heic_is_read_as_sixteen_bits_and_white_stays_white(
    tmp_path: Path, twelve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs("pillow_heif", "formats").options, "SAVE_HDR_TO_12_BIT", twelve)
    white = DEEP.copy()
    white[:8] = 65535
    picture = read(tmp_path, heic(white))
    assert picture.pixels.dtype == np.uint16
    assert picture.pixels[4, 4].tolist() == [65535] * 3
    assert np.abs(picture.pixels.astype(int) - white).max() <= 2 * 65535 / (4095 if twelve else 1023)
    assert picture.warnings == []
    write_image(tmp_path / "b.png", picture)
    assert np.array_equal(read_image(tmp_path / "b.png").pixels, picture.pixels)


def test_grey_and_transparency_of_heic_avif_and_jxl(tmp_path: Path) -> None:
    grey, alpha = COLOUR[..., 0], np.maximum(COLOUR[..., 1], 1)
    assert read(tmp_path, heic(grey)).grey
    assert np.abs(read(tmp_path, heic(np.dstack([COLOUR, alpha]))).alpha.astype(int) - alpha).max() < 3
    deep = read(tmp_path, heic(np.dstack([DEEP, alpha.astype(np.uint16) * 257])))
    assert np.abs(deep.alpha / 257 - alpha).max() < 1
    needs("pillow_jxl", "formats")
    for form, options in (("AVIF", {"quality": 100}), ("JXL", {"lossless": True})):
        buffer = io.BytesIO()
        Image.fromarray(np.dstack([COLOUR, alpha])).save(buffer, form, **options)
        assert np.array_equal(read(tmp_path, buffer.getvalue()).alpha, alpha)
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, form, **options)
        assert read(tmp_path, buffer.getvalue()).grey
    buffer = io.BytesIO()
    Image.fromarray(DEEP[..., 0]).save(buffer, "JXL", lossless=True)
    picture = read(tmp_path, buffer.getvalue())
    assert picture.grey
    assert np.array_equal(picture.pixels[..., 0], DEEP[..., 0])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_orientation_is_applied_once(tmp_path: Path, kind: str, orientation: int) -> None:
    picture = read(tmp_path, jxl(orientation=orientation) if kind == "jxl" else photo(kind, orientation))
    image = Image.fromarray(COLOUR)
    image.getexif()[0x0112] = orientation
    assert distance(picture, np.array(ImageOps.exif_transpose(image))) < 9
    write_image(tmp_path / "b.png", picture)
    assert np.array_equal(read_image(tmp_path / "b.png").pixels, picture.pixels)


def test_a_jpeg_inside_a_jpeg_xl_is_turned_by_its_exif(tmp_path: Path) -> None:
    needs("pillow_jxl", "formats")
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", exif=exif_block(6))
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jxl", lossless_jpeg=True)
    assert np.array_equal(read_image(tmp_path / "a.jxl").pixels, read_image(tmp_path / "a.jpg").pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_date_and_place_travel_and_the_place_is_dropped_where_asked(tmp_path: Path, kind: str) -> None:
    picture = read(tmp_path, photo(kind))
    for suffix in (".png", ".jpg"):
        write_image(tmp_path / f"b{suffix}", picture)
        exif = Image.open(tmp_path / f"b{suffix}").getexif()
        assert exif.get_ifd(0x8769) == {36867: "2020:02:03 04:05:06"}  # no size, no maker's note
        assert exif.get_ifd(0x8825)[1] == "N"
        write_image(tmp_path / f"c{suffix}", replace(picture, exif=without_gps(picture.exif)))
        exif = Image.open(tmp_path / f"c{suffix}").getexif()
        assert exif.get_ifd(0x8769) == {36867: "2020:02:03 04:05:06"}
        assert 0x8825 not in exif
    assert without_gps(b"") == b""


def test_raw_photos_that_are_no_tiffs_keep_their_date(tmp_path: Path) -> None:
    rawpy = needs("rawpy", "formats")
    from sspir.images.extra import raw_exif

    with rawpy.imread(io.BytesIO(dng())) as raw:
        exif = raw_exif(raw, b"FUJIFILMCCD-RAW ")
    assert exif.get_ifd(0x8769)[36867] == "2020:02:03 04:05:06"


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_colour_profiles_are_converted(tmp_path: Path, kind: str) -> None:
    picture = read(tmp_path, photo(kind, icc=wide_gamut_profile()))
    assert distance(picture, COLOUR[..., ::-1]) < 5
    assert "converted to sRGB" in picture.warnings[0]
    assert read(tmp_path, photo(kind, icc=SRGB)).icc == SRGB


def test_a_deep_heic_keeps_its_profile_as_a_deep_png_does(tmp_path: Path) -> None:
    profile = wide_gamut_profile()
    picture = read(tmp_path, heic(DEEP, icc_profile=profile))
    assert picture.icc == profile
    assert picture.warnings == ["16-bit pixels are taken as sRGB; their own colour profile is written back."]


# More than a plain screen shows


def coded(content: bytes, primaries: int, transfer: int) -> bytes:
    """A HEIC or AVIF file that names other colours."""
    at = content.index(b"colrnclx") + 8
    return content[:at] + bytes([0, primaries, 0, transfer]) + content[at + 4 :]


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_display_p3_by_numbers_becomes_srgb(tmp_path: Path, kind: str) -> None:
    red = np.full((64, 96, 3), (234, 51, 35), np.uint8)  # sRGB's red in Display P3
    buffer = io.BytesIO()
    Image.fromarray(red).save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    picture = read(tmp_path, coded(heic(red) if kind == "heic" else buffer.getvalue(), 12, 13))
    assert np.abs(picture.pixels[32, 48].astype(int) - (255, 0, 0)).max() <= 8
    assert picture.warnings == ["Colours were converted to sRGB from a wider range."]


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_brought_to_a_plain_screen(tmp_path: Path, transfer: int) -> None:
    said = ["The photo is HDR (PQ or HLG); it was brought to the brightness of plain screens (SDR)."]
    for content in (heic(COLOUR), heic(DEEP)):
        assert read(tmp_path, coded(content, 9, transfer)).warnings == said
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "AVIF")
    assert read(tmp_path, coded(buffer.getvalue(), 9, transfer)).warnings == said
    assert read(tmp_path, jxl(transfer=transfer)).warnings[0] == said[0]
    white = {16: 0.5807, 18: 0.75}[transfer]  # paper by BT.2408
    ramp = np.round(np.linspace(0, 1, 256) * 65535).astype(np.uint16)
    pixels = np.repeat(ramp[None, :, None], 3, axis=2)
    shown = to_srgb(pixels, Coding(9, transfer), [])[0]
    assert np.abs(shown.astype(int) - shown[:, :1]).max() <= 1  # grey stays grey
    assert (np.diff(shown[:, 0].astype(int)) >= 0).all()
    assert shown[0, 0] == 0
    assert shown[-1, 0] == 65535
    assert 0.8 < shown[round(white * 255), 0] / 65535 < 0.93


def test_the_photo_beside_a_gain_map_is_taken_and_this_is_said(tmp_path: Path) -> None:
    said = "The photo's HDR gain map is left out: it is restored as plain screens (SDR) show it."
    xmp = b'<x:xmpmeta xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    first, second = io.BytesIO(), Image.fromarray(COLOUR[::2, ::2, 0])
    Image.fromarray(COLOUR).save(first, "MPO", save_all=True, append_images=[second], xmp=xmp)
    ultra = read(tmp_path, first.getvalue())
    assert ultra.warnings == [said]
    assert distance(ultra, COLOUR) < 5
    plain = io.BytesIO()
    Image.fromarray(COLOUR).save(plain, "MPO", save_all=True, append_images=[second])
    assert read(tmp_path, plain.getvalue()).warnings == []
    apple = heic(COLOUR) + box(b"free", b"urn:com:apple:photo:2020:aux:hdrgainmap")
    assert read(tmp_path, apple).warnings == [said]
    newer = heic(COLOUR).replace(b"mif1", b"tmap", 1)
    assert read(tmp_path, newer).warnings == [said]
    boxed = jxl_boxes(jxl()) + box(b"jhgm", bytes(9))
    assert read(tmp_path, boxed).warnings == [said]


def jxl_boxes(bare: bytes) -> bytes:
    start = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    half = len(bare) // 2  # the header in one part, and an odd one beside it
    parts = (bare[:3], bare[3:half], bare[half:])
    numbers = (0, 1, 2 | 1 << 31)
    return start + b"".join(
        box(b"jxlp", number.to_bytes(4) + part) for number, part in zip(numbers, parts, strict=True)
    )


def test_bits_that_are_lost_are_told(tmp_path: Path) -> None:
    assert read(tmp_path, jxl(bits=12)).warnings == ["JPEG XL is read with 8 bits per value; the file holds 12."]
    content = bytearray(photo("avif").replace(bytes([3, 8, 8, 8]), bytes([3, 10, 10, 10]), 1))
    content[content.index(b"av1C") + 6] |= 0x40  # of its decoder's configuration: ten bits
    assert read(tmp_path, bytes(content)).warnings == ["AVIF is read with 8 bits per value; the file holds 10."]


# What is refused, in words


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_files_are_told_in_one_sentence(tmp_path: Path, kind: str, share: float) -> None:
    whole = photo(kind)
    with pytest.raises(ImageError) as refusal:
        read(tmp_path, whole[: int(len(whole) * share)], "cut.png")
    said = str(refusal.value)
    assert str(tmp_path / "cut.png") in said
    assert "\n" not in said
    assert said.endswith(".")
    with pytest.raises(ImageError, match="empty file"):
        read(tmp_path, b"", f"empty.{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_counts_not_the_name(tmp_path: Path, kind: str) -> None:
    assert read(tmp_path, photo(kind), "really.jpg").pixels.shape == COLOUR.shape
    Image.fromarray(COLOUR).save(tmp_path / f"really.{kind}", "PNG")
    assert np.array_equal(read_image(tmp_path / f"really.{kind}").pixels, COLOUR)
    with pytest.raises(ImageError, match="not an image"):
        read(tmp_path, b"not a picture at all", f"text.{kind}")


@pytest.mark.thorough
def test_avif_is_the_first_that_a_process_reads(tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(photo("avif"))
    code = f"from sspir.images.io import read_size; print(read_size({str(tmp_path / 'a.avif')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(64, 96)\n", 0), done.stderr


def test_films_and_bursts(tmp_path: Path) -> None:
    for kind, content in {
        "heic": heic(COLOUR).replace(b"ftypheix", b"ftyphevc").replace(b"ftypheic", b"ftyphevc"),
        "avif": frames("AVIF"),
        "jxl": jxl(animated=True),
    }.items():
        with pytest.raises(ImageError, match="is animated or has several pages"):
            read(tmp_path, content, f"film.{kind}")
    with pytest.raises(ImageError, match="is a film or of a rare kind"):
        read(tmp_path, box(b"ftyp", b"isom\0\0\0\0isommp42"), "film.mp4")
    burst = read(tmp_path, heic(COLOUR, COLOUR[::-1]))
    assert distance(burst, COLOUR) < 2
    assert burst.warnings == ["The file holds 2 photos; the main one was taken."]


def bomb(kind: str) -> bytes:
    if kind == "jxl":
        needs("pillow_jxl", "formats")
        return jxl_header(40_000, 30_000) + bytes(99)
    if kind == "dng":
        return dng(size=(40_000, 30_000))
    whole = photo(kind)
    at = whole.index(b"ispe") + 8
    return whole[:at] + (40_000).to_bytes(4) + (30_000).to_bytes(4) + whole[at + 8 :]


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_of_pixels_holds_before_decoding(tmp_path: Path, kind: str) -> None:
    assert read(tmp_path, photo(kind), max_pixels=64 * 96).pixels.shape[:2] == (64, 96)
    with pytest.raises(ImageError, match="96 x 64 = 6,144 pixels"):
        read(tmp_path, photo(kind), max_pixels=64 * 96 - 1)
    with pytest.raises(ImageError) as refusal:
        read(tmp_path, bomb(kind))
    assert "40000 x 30000 = 1,200,000,000 pixels" in str(refusal.value) or kind in ("heic", "avif")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the EXIF
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_never_crash(tmp_path: Path, kind: str) -> None:
    whole, draw = photo(kind), random.Random(0)
    for trial in range(40):
        content = bytearray(whole)
        for _ in range(1 + trial % 4):
            content[draw.randrange(len(content) if trial % 2 else 400)] ^= 1 << draw.randrange(8)
        with contextlib.suppress(ImageError):
            assert read(tmp_path, bytes(content), max_pixels=1_000_000).pixels.shape[2] == 3


# Without the extra, and folders


@pytest.mark.parametrize(("kind", "library"), [("heic", "pillow_heif"), ("jxl", "pillow_jxl"), ("dng", "rawpy")])
def test_what_is_missing_is_named(
    tmp_path: Path, kind: str, library: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"b.{kind}").write_bytes(photo(kind))
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", f"b.{kind}"]
    monkeypatch.setitem(sys.modules, library, None)
    for reading in (read_image, read_size):
        with pytest.raises(ImageError, match=r"needs .* pip install 'sspir\[formats\]'\.$"):
            reading(tmp_path / f"b.{kind}")
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]
    (sentence,) = caplog.messages
    assert f"{tmp_path}: 1 .{kind} left out" in sentence
    assert "HEIC, JPEG XL and RAW after pip install 'sspir[formats]'" in sentence

"""Files of every kind, as photographers and broken downloads make them."""

import contextlib
import io
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin
from skimage import data as photos

from sspir.errors import UserError
from sspir.images.hdr import BRIGHT, Coding, to_srgb
from sspir.images.io import ImageError, Picture, list_images, read_image, read_size, write_image
from sspir.images.photo import to_tensor
from sspir.images.picture import spread_colours
from tests.images.written import COLOUR, DEEP, exif_block, frames, plain

GREY = photos.camera()[100:164, 180:276]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


# Reading what is fine


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / f"a{suffix}", exif=exif_block(orientation))
    png = save(Image.fromarray(np.array(Image.open(path).convert("RGB"))), tmp_path / "b.png", exif=b"")
    if suffix == ".tif":  # Pillow turns TIFFs by itself
        expected = np.array(Image.open(path).convert("RGB"))
    else:
        turned = Image.open(png)
        turned.getexif()[0x0112] = orientation
        expected = np.array(ImageOps.exif_transpose(turned))
    picture = read_image(path)
    assert np.array_equal(picture.pixels, expected)
    write_image(tmp_path / "again.png", picture)
    assert np.array_equal(read_image(tmp_path / "again.png").pixels, expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_sixteen_bit_files(tmp_path: Path, suffix: str, orientation: int) -> None:
    eight = save(Image.fromarray(GREY), tmp_path / f"8{suffix}", exif=exif_block(orientation))
    deep = save(Image.fromarray(GREY.astype(np.uint16) * 257), tmp_path / f"16{suffix}", exif=exif_block(orientation))
    assert np.array_equal(read_image(deep).pixels, read_image(eight).pixels.astype(np.uint16) * 257)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow looks for the other block, too
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("depth", [8, 16])
def test_metadata_travels_without_what_no_longer_holds(tmp_path: Path, suffix: str, depth: int) -> None:
    described = Image.Exif()
    described.load(exif_block(6))
    described.get_ifd(0x8769)[40965] = 500  # where another block stood in the file
    source = save(Image.fromarray(COLOUR), tmp_path / "a.jpg", exif=described.tobytes(), icc_profile=SRGB)
    picture = read_image(source)
    if depth == 16:
        picture = replace(picture, pixels=picture.pixels.astype(np.uint16) * 257)
    write_image(tmp_path / f"b{suffix}", picture)
    written = Image.open(tmp_path / f"b{suffix}")
    exif = written.getexif()
    assert exif.get(0x0112, 1) == 1
    assert exif[0x010E] == "a cup"
    assert exif.get_ifd(0x8769) == {36867: "2020:02:03 04:05:06"}
    assert exif.get_ifd(0x8825)[1] == "N"
    assert written.info["icc_profile"] == SRGB


@pytest.mark.parametrize("channels", ["grey", "grey+alpha", "rgb", "rgb+alpha"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("depth", [8, 16])
def test_lossless_round_trip(tmp_path: Path, channels: str, suffix: str, depth: int) -> None:
    pixels = np.repeat(GREY[..., None], 3, 2) if "grey" in channels else COLOUR
    pixels = pixels.astype(np.uint16) * 256 + 77 if depth == 16 else pixels
    alpha = np.maximum(pixels[::-1, :, 1], 1) if "alpha" in channels else None
    picture = Picture(pixels, alpha, grey="grey" in channels)
    assert write_image(tmp_path / f"a{suffix}", picture) == []
    again = read_image(tmp_path / f"a{suffix}")
    assert again.pixels.dtype == pixels.dtype
    assert np.array_equal(again.pixels, pixels)
    assert again.grey == picture.grey
    assert (alpha is None) == (again.alpha is None)
    assert alpha is None or np.array_equal(again.alpha, alpha)


def test_sixteen_bit_files_of_other_programs(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "rgb.png"), DEEP[..., ::-1])
    cv2.imwrite(str(tmp_path / "rgb.tif"), DEEP[..., ::-1])
    for name in ("rgb.png", "rgb.tif"):
        assert np.array_equal(read_image(tmp_path / name).pixels, DEEP)
    pillow_grey = save(Image.fromarray(DEEP[..., 0]), tmp_path / "grey.png")
    assert read_image(pillow_grey).grey
    assert np.array_equal(read_image(pillow_grey).pixels[..., 2], DEEP[..., 0])
    ours = tmp_path / "ours.tif"
    write_image(ours, Picture(DEEP))
    assert np.array_equal(cv2.imread(str(ours), cv2.IMREAD_UNCHANGED)[..., ::-1], DEEP)


def test_tensor_is_in_unit_range_at_both_depths() -> None:
    assert torch.equal(Picture(COLOUR).tensor(), torch.from_numpy(COLOUR).permute(2, 0, 1) / 255)
    assert torch.equal(Picture(COLOUR.astype(np.uint16) * 257).tensor(), Picture(COLOUR).tensor())


def test_palette_one_bit_cmyk_and_their_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(200)
    expected = np.array(palette.convert("RGB"))
    assert np.array_equal(read_image(save(palette, tmp_path / "p.png")).pixels, expected)
    transparent = read_image(save(palette, tmp_path / "t.png", transparency=palette.getpixel((0, 0))))
    assert transparent.alpha is not None
    assert transparent.alpha[0, 0] == 0
    assert transparent.alpha.max() == 255
    bilevel = read_image(save(Image.fromarray(GREY > 128), tmp_path / "1.png"))
    assert bilevel.grey
    assert np.array_equal(bilevel.pixels[..., 0], np.uint8(255) * (GREY > 128))
    cmyk = read_image(save(Image.fromarray(COLOUR).convert("CMYK"), tmp_path / "c.jpg", quality=98))
    assert np.abs(cmyk.pixels.astype(int) - COLOUR).mean() < 4
    assert "CMYK" in cmyk.warnings[0]


def wide_gamut_profile() -> bytes:
    """The sRGB profile with red and blue exchanged: as different as a profile can be."""
    red, blue = SRGB.index(b"rXYZ"), SRGB.index(b"bXYZ")
    changed = bytearray(SRGB)
    changed[red : red + 4], changed[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(changed).replace(b"s\0R\0G\0B", b"t\0e\0s\0t").replace(b"sRGB", b"test")


def test_colour_profiles_are_converted_or_reported(tmp_path: Path) -> None:
    foreign = save(Image.fromarray(COLOUR), tmp_path / "f.png", icc_profile=wide_gamut_profile())
    picture = read_image(foreign)
    assert np.abs(picture.pixels.astype(int) - COLOUR[..., ::-1]).mean() < 3
    assert "converted to sRGB" in picture.warnings[0]
    write_image(tmp_path / "again.png", picture)
    again = read_image(tmp_path / "again.png")
    assert np.array_equal(again.pixels, picture.pixels)
    assert again.warnings == []
    broken = read_image(save(Image.fromarray(COLOUR), tmp_path / "b.png", icc_profile=b"x" * 200))
    assert np.array_equal(broken.pixels, COLOUR)
    assert "profile is broken" in broken.warnings[0]
    assert read_image(save(Image.fromarray(COLOUR), tmp_path / "s.png", icc_profile=SRGB)).warnings == []


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really a jpeg, ünïcode = (1).png"
    path.write_bytes(plain("JPEG") + b"trailing junk")
    assert read_image(path).pixels.shape == COLOUR.shape


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes, behind: bool = False, deep: bool = False) -> bytes:
    whole = cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes() if deep else plain("PNG")
    place = len(whole) - 12 if behind else 33
    return whole[:place] + b"".join(chunks) + whole[place:]


def pages_of(*pages: tuple[Image.Image, int]) -> bytes:
    """A TIFF of pages, each with its NewSubfileType."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, new=True) as writer:
        for page, kind in pages:
            page.save(writer, "TIFF", tiffinfo={254: kind})
            writer.newFrame()
    return buffer.getvalue()


SMALL = (Image.fromarray(COLOUR).resize((12, 8)), 1)
LONG = zlib.compress(b'{"nodes": []}' * 300_000)
NOISE = random.Random(0).randbytes(1_500_000)
HARMLESS = {
    "workflow": png_with(chunk(b"zTXt", b"workflow\0\0" + LONG)),
    "workflow behind": png_with(chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG), behind=True),
    "workflow of 16 bits": png_with(chunk(b"zTXt", b"workflow\0\0" + LONG), deep=True),
    "many texts": png_with(*[chunk(b"tEXt", b"prompt\0" + NOISE)] * 45),
    "long xmp": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG)),
    "large profile": png_with(chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB + NOISE))),
    "checksum of a text": png_with(chunk(b"tEXt", b"a\0b", 7)),
    "checksum of a text behind": png_with(chunk(b"tEXt", b"a\0b", 7), behind=True),
    "short resolution": png_with(chunk(b"pHYs", b"\0\0\0")),
    "no end": plain("PNG")[:-12],
    "half an end": plain("PNG")[:-5],
    "padded": plain("PNG") + bytes(999),
    "preview behind": pages_of((Image.fromarray(COLOUR), 0), SMALL),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_stands_beside_the_picture_does_not_keep_it_from_being_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(HARMLESS[name])
    picture = read_image(path)
    assert np.array_equal(picture.pixels, DEEP if "16 bits" in name else COLOUR)
    assert picture.warnings == []
    assert read_size(path) == COLOUR.shape[:2]


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (png_with(chunk(b"eXIf", b"II*\0", 7)), "EXIF data is broken"),
        (png_with(chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB), 7)), "profile is broken"),
        (png_with(chunk(b"iCCP", b"x")), "profile is broken"),
    ],
)
def test_a_damaged_description_is_told_and_left_out(tmp_path: Path, content: bytes, warning: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    picture = read_image(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, COLOUR)
    assert warning in picture.warnings[0]


def test_colours_that_a_png_names_by_numbers(tmp_path: Path) -> None:
    path = tmp_path / "screen.png"
    path.write_bytes(png_with(chunk(b"cICP", bytes([9, 16, 0, 1]))))
    picture, lost = read_image(path), []
    assert np.array_equal(picture.pixels, to_srgb(COLOUR, Coding(9, 16), lost))
    assert list(picture.warnings) == lost == [BRIGHT]
    path.write_bytes(png_with(chunk(b"cICP", bytes([1, 13, 0, 1]))))
    assert np.array_equal(read_image(path).pixels, COLOUR)


def test_orientation_of_older_programs_is_found(tmp_path: Path) -> None:
    words = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    (tmp_path / "a.png").write_bytes(png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + words)))
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, np.rot90(COLOUR, -1))


def test_line_ends_before_a_photo_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\r\n" + plain("JPEG"))
    assert read_image(tmp_path / "a.jpg").pixels.shape == COLOUR.shape


def test_pillow_s_own_limit_of_pixels_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("png", "tif", "webp"):
        save(Image.fromarray(COLOUR), tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for suffix in ("png", "tif", "webp"):
        assert read_image(tmp_path / f"a.{suffix}").pixels.shape == COLOUR.shape


# Replacing the pixels


def test_replaced_keeps_depth_grey_and_resamples_alpha() -> None:
    ramp = np.tile(np.linspace(0, 65535, 96).astype(np.uint16), (64, 1))
    picture = Picture(np.repeat(ramp[..., None], 3, 2), alpha=ramp, grey=True)
    bigger = picture.replaced(torch.rand(3, 130, 190, generator=torch.Generator().manual_seed(0)))
    assert bigger.pixels.shape == (130, 190, 3)
    assert bigger.pixels.dtype == np.uint16
    assert (bigger.pixels[..., :1] == bigger.pixels).all()
    assert bigger.alpha is not None
    assert np.abs(bigger.alpha[60] / 65535 - np.linspace(0, 1, 190)).max() < 0.01
    same = picture.replaced(picture.tensor())
    assert np.array_equal(same.pixels, picture.pixels)
    assert same.alpha is picture.alpha


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Picture(COLOUR).replaced(torch.full((3, 8, 8), float("nan")))


def test_no_dark_fringe_around_transparency(tmp_path: Path) -> None:
    pixels, alpha = np.full((64, 64, 3), 200, np.uint8), np.zeros((64, 64), np.uint8)
    alpha[20:44, 20:44] = 255
    pixels[alpha == 0] = 0
    save(Image.fromarray(np.dstack([pixels, alpha])), tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert (picture.pixels == 200).all()
    assert np.array_equal(picture.alpha, alpha)
    ramp = np.dstack([np.tile(np.arange(64, dtype=np.uint8), (64, 1))] * 3) * np.uint8(3)
    ramp[alpha == 0] = 0
    assert np.array_equal(spread_colours(ramp, alpha)[alpha > 0], ramp[alpha > 0])
    assert spread_colours(ramp, alpha)[alpha == 0].min() >= 3 * 20


def test_a_picture_of_pillow_is_what_its_file_is(tmp_path: Path) -> None:
    opacity = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    deep = Image.frombytes("I;16B", (96, 64), DEEP[..., 0].astype(">u2").tobytes())
    palette = Image.fromarray(COLOUR).quantize(200)
    palette.info["transparency"] = 3
    written = [
        save(Image.fromarray(DEEP[..., 0]), tmp_path / "deep.png"),
        save(deep, tmp_path / "deep.tif"),
        save(Image.fromarray(np.dstack([COLOUR * (opacity > 0)[..., None], opacity])), tmp_path / "rgba.png"),
        save(Image.fromarray(np.dstack([GREY * (opacity > 0), opacity])), tmp_path / "la.png"),
        save(palette, tmp_path / "palette.png"),
        save(Image.fromarray(COLOUR).convert("CMYK"), tmp_path / "cmyk.tif"),
        save(Image.fromarray(COLOUR), tmp_path / "turned.jpg", exif=exif_block(6)),
        save(Image.fromarray(COLOUR), tmp_path / "turned.tif", exif=exif_block(8)),
        save(Image.fromarray(DEEP[..., 0]), tmp_path / "turned deep.png", exif=exif_block(5)),
        save(Image.fromarray(COLOUR), tmp_path / "wide.png", icc_profile=wide_gamut_profile()),
    ]
    for path in written:
        with Image.open(path) as picture:
            assert torch.equal(to_tensor(picture), to_tensor(path)), path.name
            assert torch.equal(to_tensor(ImageOps.exif_transpose(picture)), to_tensor(path)), path.name
    floats = Image.fromarray(GREY.astype(np.float32) / 255)
    assert torch.equal(to_tensor(floats), to_tensor(Image.fromarray(GREY)))
    for given, sentence in ((floats.point(lambda value: value * 255), "divide"), (floats.convert("I"), "of int32")):
        with pytest.raises(UserError, match=sentence):
            to_tensor(given)


def test_formats_say_what_they_lose(tmp_path: Path) -> None:
    alpha = np.full(COLOUR.shape[:2], 0, np.uint16)
    picture = Picture(DEEP, alpha, exif=exif_block(1), icc=SRGB)
    notes = " ".join(write_image(tmp_path / "a.bmp", picture))
    assert "transparency" in notes
    assert "8 bits" in notes
    assert "EXIF" in notes
    assert (read_image(tmp_path / "a.bmp").pixels == 255).all()
    assert "transparency" in write_image(tmp_path / "a.jpg", picture)[0]
    assert read_image(tmp_path / "a.jpg").alpha is None
    write_image(tmp_path / "a.webp", replace(picture, alpha=alpha + 5000), quality=100)
    assert np.array_equal(read_image(tmp_path / "a.webp").pixels, ((DEEP.astype(int) + 128) // 257))


# What is refused, in words


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    mark, end = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13), struct.pack(">I", zlib.crc32(chunk))
    return mark + chunk + end + plain("PNG")[33:]


def twelve_bit_jpeg() -> bytes:
    data = bytearray(plain("JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY.astype(np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


OPACITY = DEEP[::-1, :, 0] | 1


def deep_tiff(tag: int, value: int) -> bytes:
    """A 16-bit TIFF of `DEEP` and `OPACITY` with a tag that says something else of its four channels."""
    planes = np.dstack([DEEP[..., ::-1], OPACITY])
    data = bytearray(cv2.imencode(".tif", planes, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1])
    at = data.index(struct.pack("<HHI", 262 if tag == 262 else 284, 3, 1))
    data[at : at + 10] = struct.pack("<HHIH", tag, 3, 1, value)
    return bytes(data)


REFUSED = {
    "16-bit planes": (deep_tiff(284, 2), "16-bit pixels of an unusual kind"),
    "16-bit cmyk": (deep_tiff(262, 5), "16-bit pixels of an unusual kind|TIFF"),
    "empty": (b"", "empty file"),
    "page": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "text": (b"not a picture at all", "not an image"),
    "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "film": (b"\0\0\0\x18ftypisom" + bytes(40), "a film"),
    "jpeg 2000": (plain("JPEG2000"), "of the format JPEG2000"),
    "icon": (plain("ICO"), "of the format ICO"),
    "photoshop": (b"8BPS\0\1" + bytes(40), "of the format PSD"),
    "as text": (plain("PNG").replace(b"\r\n", b"\n", 1), "copied as text"),
    "12-bit jpeg": (twelve_bit_jpeg(), "a JPEG file, but .*12-bit"),
    "cut webp": (plain("WEBP")[:-30], "a WEBP file, but broken"),
    "cut between chunks": (png_with(chunk(b"IDAT", b""), behind=True)[:33], "broken or cut off"),
    "raw": (pages_of(SMALL, (Image.fromarray(COLOUR), 0)), "preview"),
    "cut jpeg": (plain("JPEG")[:-900], "broken or cut off"),
    "cut png": (plain("PNG")[:-900], "broken or cut off"),
    "damaged png": (plain("PNG")[:400] + b"\xff" * 80 + plain("PNG")[480:], "broken or cut off"),
    "bomb": (bomb(), "max_pixels"),
    "gif": (frames("GIF"), "animated"),
    "apng": (frames("PNG"), "animated"),
    "webp": (frames("WEBP"), "animated"),
    "pages": (frames("TIFF"), "several pages"),
    "float": (float_tiff(), "8 or 16 bits"),
    "float rgb": (cv2.imencode(".tif", COLOUR.astype(np.float32))[1].tobytes(), "TIFF"),
    "32-bit": (cv2.imencode(".tif", GREY.astype(np.int32))[1].tobytes(), "8 or 16 bits"),
    "hdr": (cv2.imencode(".hdr", COLOUR.astype(np.float32))[1].tobytes(), "Radiance"),
    "cut 16-bit png": (cv2.imencode(".png", DEEP)[1].tobytes()[:-900], "broken or cut off"),
    "cut 16-bit tiff": (cv2.imencode(".tif", DEEP)[1].tobytes()[:-900], "cut off|TIFF"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as refusal:
        read_image(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "warnings"), [(0, ["The fourth channel, which is no opacity, was left out."]), (1, []), (2, [])]
)
def test_a_fourth_channel_is_what_its_tag_says(tmp_path: Path, kind: int, warnings: list[str]) -> None:
    path = tmp_path / "scan.tif"
    path.write_bytes(deep_tiff(338, kind))
    picture = read_image(path)
    assert list(picture.warnings) == warnings
    assert (picture.alpha is None) == (kind == 0)
    assert picture.alpha is None or np.array_equal(picture.alpha, OPACITY)
    share = OPACITY[..., None].astype(float) / 65535 if kind == 1 else 1.0
    assert np.abs(picture.pixels - np.minimum(DEEP / share, 65535)).max() <= 0.5


def test_missing_folder_or_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")
    assert read_image(path, max_pixels=64 * 96).pixels.shape == (64, 96, 3)
    with pytest.raises(ImageError, match="96 x 64 = 6,144 pixels"):
        read_image(path, max_pixels=64 * 96 - 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the TIFFs
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_flipped_bits_never_crash(tmp_path: Path, form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR[:16, :16]).save(buffer, form)
    draw = random.Random(0)
    for trial in range(60):
        content = bytearray(buffer.getvalue())
        for _ in range(1 + trial % 4):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "a").write_bytes(content)
        with contextlib.suppress(ImageError):
            assert read_image(tmp_path / "a", max_pixels=1_000_000).pixels.shape[2] == 3


def test_writing_is_atomic_and_says_what_failed(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "a.png"
    write_image(target, Picture(COLOUR))
    before = target.read_bytes()
    with pytest.raises(ImageError, match="suffix"):
        write_image(tmp_path / "a.xyz", Picture(COLOUR))
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(target / "b.png", Picture(COLOUR))
    wide = Picture(np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(ImageError, match="PNG or TIFF"):
        write_image(tmp_path / "wide.webp", wide)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


def test_what_a_folder_holds_beside_photos_is_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "b.gif", "sub/C.GIF", "c.psd", "IMG_1", "d.xyz", "notes.txt", "captions.jsonl", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):
        assert list_images(tmp_path) == [tmp_path / "a.png"]
    (sentence,) = caplog.messages
    assert f"{tmp_path}: 2 .gif, 1 .psd, 2 other files left out; files ending in .png, .jpg," in sentence
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"holds no images, but 2 \.gif, 1 \.psd, 2 other files; files ending in"):
        list_images(tmp_path)


def test_listing_is_sorted_recursive_and_safe_from_loops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ImageError, match="not a folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(ImageError, match="no images"):
        list_images(tmp_path)
    for name in ("b.png", "a.JPG", "sub/c.tiff", "sub/._c.tiff", "sub/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ["a.JPG", "b.png", "sub/c.tiff"]
    assert not caplog.messages  # texts and hidden files are no news


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_size_is_told_as_the_photo_is_read(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (40, 30), "red").save(path, exif=exif)
    assert read_size(path) == read_image(path).pixels.shape[:2] == ((40, 30) if orientation > 4 else (30, 40))


def test_grey_values_under_a_colour_profile_keep_it(tmp_path: Path) -> None:
    values = np.repeat(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8, 1), 3, axis=2)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    icc = icc[:16] + b"RGB " + icc[20:]  # as that of a scanner: no sRGB
    data = cv2.imencode(".png", values)[1].tobytes()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"iCCP", b"scanner\0\0" + zlib.compress(icc)) + data[33:])
    picture = read_image(tmp_path / "a.png")
    assert "their own colour profile is written back" in picture.warnings[0]
    assert write_image(tmp_path / "b.png", picture.replaced(picture.tensor())) == []
    again = read_image(tmp_path / "b.png")
    assert again.icc == icc
    assert (again.pixels == values).all()

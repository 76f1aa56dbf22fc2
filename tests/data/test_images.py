"""Every kind of file a competition may hold is read right, or named."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.base import records
from pipeline.data import images
from pipeline.data.images import BadImageError, FilePixels, decode, shaped

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half blue: tells a swapped channel or a wrong rotation."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def close(pixel: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= within)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_formats_give_rgb_in_order(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    halves().save(path, **({"quality": 98} if suffix in ("jpg", "webp") else {}))
    rgb = decode(path).rgb
    assert rgb.shape == (20, 40, 3)
    assert rgb.dtype == np.uint8
    assert close(rgb[10, 5], RED, 25)
    assert close(rgb[10, 35], BLUE, 25)


def test_cmyk_and_grey(tmp_path: Path) -> None:
    halves("CMYK").save(tmp_path / "c.jpg", quality=98)
    assert close(decode(tmp_path / "c.jpg").rgb[10, 5], RED, 40)
    Image.new("L", (8, 6), 77).save(tmp_path / "g.png")
    grey = decode(tmp_path / "g.png")
    assert grey.rgb.shape == (6, 8, 3)
    assert (grey.rgb == 77).all()
    assert grey.note == "L"


def test_16_bit_keeps_its_brightness(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "d.png"), np.full((5, 5), 0x8040, np.uint16))
    assert np.abs(decode(tmp_path / "d.png").rgb.astype(int) - 128).max() <= 1


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    image = halves("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.paste((255, 0, 0, 255), (0, 0, 10, 20))
    image.save(tmp_path / "a.png")
    rgb = decode(tmp_path / "a.png").rgb
    assert close(rgb[10, 5], RED)
    assert close(rgb[10, 35], WHITE), "what is invisible must not become blue"


def test_palette_transparency_is_laid_on_white(tmp_path: Path) -> None:
    halves("P").save(tmp_path / "p.png", transparency=halves("P").getpixel((35, 10)))
    rgb = decode(tmp_path / "p.png").rgb
    assert close(rgb[10, 5], RED)
    assert close(rgb[10, 35], WHITE)


def corners() -> Image.Image:
    """No two of its eight turns are alike."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20] = RED, BLUE, WHITE
    return Image.fromarray(pixels)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def webp_of_another_writer(drawn: Image.Image, path: Path, orientation: int) -> None:
    """The EXIF chunk begins with the six bytes that JPEG has there, as Pillow's own samples."""
    plain = path.with_suffix(".plain")
    drawn.save(plain, "webp", lossless=True, exif=exif(orientation).removeprefix(b"Exif\0\0"))
    data, tags = plain.read_bytes(), b"Exif\0\0" + exif(orientation).removeprefix(b"Exif\0\0")
    chunk = b"EXIF" + struct.pack("<I", len(tags)) + tags + b"\0" * (len(tags) % 2)
    data = data[: data.index(b"EXIF")] + chunk
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


def framed(chunk: bytes) -> bytes:
    """A chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))


def png_of_imagemagick(drawn: Image.Image, path: Path, orientation: int) -> None:
    """EXIF as hexadecimal text, in a chunk of compressed text."""
    drawn.save(path)
    data = path.read_bytes()
    body = b"Exif\0\0" + exif(orientation).removeprefix(b"Exif\0\0")
    text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
    chunk = b"zTXt" + b"Raw profile type exif\0\0" + zlib.compress(text)
    path.write_bytes(data[:33] + framed(chunk) + data[33:])


WRITERS = {"Exif00.webp": webp_of_another_writer, "text.png": png_of_imagemagick}


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "tif", "avif", *WRITERS])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_orientation_in_every_format(form: str, mode: str, tmp_path: Path) -> None:
    for turn in range(1, 9):
        path, drawn = tmp_path / f"{turn}.{form}", corners().convert(mode)
        if form in WRITERS:
            WRITERS[form](drawn, path, turn)
        else:
            exact = {"webp": {"lossless": True}, "tif": {}, "png": {}}.get(form, {"quality": 98})
            drawn.save(path, exif=exif(turn), **exact)
        picture = decode(path)
        upright = drawn.convert("RGB")
        upright.getexif()[0x0112] = turn
        expected = np.asarray(ImageOps.exif_transpose(upright)).astype(int)
        assert picture.rgb.shape == expected.shape == ((24, 40, 3) if turn < 5 else (40, 24, 3))
        assert np.abs(picture.rgb - expected).mean() < 12, turn
        if form != "tif":  # libtiff turns it by itself
            assert ("rotated" in picture.note) == (turn > 1)


@pytest.mark.parametrize("form", ["png", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_whole_picture_with_malformed_exif_is_read_as_it_lies(
    form: str, mode: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    halves(mode).save(path, exif=b"Exif\0\0garbage!", quality=98)
    rgb = decode(path).rgb
    assert rgb.shape == (20, 40, 3)
    assert close(rgb[10, 5], RED, 25) and close(rgb[10, 35], BLUE, 25)


RAMP = np.linspace(0, 1, 24 * 40).reshape(24, 40)


@pytest.mark.parametrize(
    ("name", "values", "brightest", "mean"),
    [
        ("a.j2k", (RAMP * 65535).astype(np.uint16), 255, 127.5),  # white, as Pillow converts it
        ("a.jp2", (RAMP * 65535).astype(np.uint16), 255, 127.5),
        ("a.png", (RAMP * 65535).astype(np.uint16), 255, 127.5),
        ("12 bit.png", (RAMP * 4095).astype(np.uint16), 15, 7.5),
        ("a.tif", RAMP.astype(np.float32), 255, 127.5),
        ("a.pfm", RAMP.astype(np.float32), 255, 127.5),
        ("255.tif", (RAMP * 255).astype(np.float32), 255, 127),
        ("int.tif", (RAMP * 255).astype(np.int32), 255, 127),
    ],
)
def test_deep_pictures_keep_their_brightness(
    name: str, values: np.ndarray, brightest: int, mean: float, tmp_path: Path
) -> None:
    Image.fromarray(values).save(tmp_path / name)
    picture = decode(tmp_path / name)
    assert picture.rgb.max() == brightest
    assert abs(picture.rgb.mean() - mean) < 0.6
    assert ("float" if values.dtype == np.float32 else "over 8 bit") in picture.note
    assert ("almost black" in picture.note) == (brightest == 15)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((RAMP * 997).astype(np.float32), "floats from 0 to 997, of which white is unknown"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "floats from nan to nan"),
        ((RAMP * 65535).astype(np.int32), "integers from 0 to 65535, of which white"),
        ((RAMP * 255 - 100).astype(np.int32), "negative values"),
        ((RAMP - 0.5).astype(np.float32), "negative values"),
    ],
)
def test_numbers_of_unknown_brightness_are_refused(
    values: np.ndarray, said: str, tmp_path: Path
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(BadImageError, match=said):
        decode(tmp_path / "a.tif")


def claims_to_be(width: int, height: int) -> bytes:
    """A PNG of a few bytes that would fill gigabytes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + framed(head) + framed(b"IDAT" + zlib.compress(b""))


def test_bad_files_say_why(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    cases = {
        "gone.jpg": (None, "no such file"),
        "empty.jpg": (b"", "0 bytes"),
        "text.jpg": (b"<html>404</html>", "not an image"),
        "half.jpg": (whole.read_bytes()[: whole.stat().st_size // 2], "broken"),
        "bomb.png": (claims_to_be(1 << 16, 1 << 15), "broken: .*2147483648 pixels.* exceeds limit"),
    }
    for name, (content, said) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImageError, match=said):
            decode(tmp_path / name)


def test_names_that_no_file_can_have_are_bad_pictures(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no such file"):
        decode(tmp_path / "a\0b.png")
    with pytest.raises(BadImageError, match="cannot be read: File name too long"):
        decode(tmp_path / ("x" * 300 + ".png"))
    assert records.stat_of(f"{tmp_path}/a\0b.png") == [0, 0]


def test_too_little_memory_is_no_broken_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corners().save(tmp_path / "a.png")

    def exhausted(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images.cv2, "imread", exhausted)
    with pytest.raises(BadImageError, match="not enough memory"):
        decode(tmp_path / "a.png")


def test_digest_sees_pixels_and_shape_only(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    halves().save(tmp_path / "b.bmp")
    halves(size=(20, 40)).save(tmp_path / "c.png")
    a, b, c = (decode(tmp_path / name).digest for name in ("a.png", "b.bmp", "c.png"))
    assert a == b
    assert a != c


def test_square_stretches_or_pads() -> None:
    picture = np.full((20, 40, 3), 200, np.uint8)
    picture[:, :20] = 50
    assert shaped(picture, 10, "stretch")[1, 1].tolist() == [50, 50, 50]
    padded = shaped(picture, 40, "pad")
    assert padded.shape == (40, 40, 3)
    assert (padded[12:28, :18] == 50).all()
    assert len(np.unique(padded[:8])) == 1, "above the picture there is one edge colour"


def test_a_long_strip_is_padded_in_little_memory() -> None:
    """Padded first, as today's ordinary pictures are, it would be 60000 x 60000."""
    strip = np.full((1, 60000, 3), 40, np.uint8)
    strip[:, :6000] = 200
    padded = shaped(strip, 100, "pad")
    assert padded.shape == (100, 100, 3)
    assert (padded[[0, 25, 75, 99]] == 40).all(), "the edge's colour"
    assert padded[49, 4, 0] > 110 > 45 > padded[49, 20, 0]


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(shaped(stripes, 32, "stretch").astype(int) - 128).max() <= 1


def test_file_pixels_equal_packed_ones(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    pixels = FilePixels([tmp_path / "a.png", tmp_path / "gone.png"], 16, "stretch")
    assert (pixels[0] == shaped(decode(tmp_path / "a.png").rgb, 16, "stretch")).all()
    with pytest.raises(BadImageError, match=r"gone.png: no such file"):
        pixels[1]


def test_slides_of_180_megapixels_are_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (60_000, 3_000), 1).save(tmp_path / "slide.png", compress_level=1)
    monkeypatch.setattr(cv2, "imread", lambda *_: np.full((3, 60, 3), 255, np.uint8))
    assert decode(tmp_path / "slide.png").rgb.shape == (3, 60, 3)

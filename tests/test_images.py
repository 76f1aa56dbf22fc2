"""Every kind of file a competition may hold is read right, or named."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.parts.images import BadImageError, FilePixels, decode, square, twin_groups

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


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right
    halves().save(tmp_path / "r.jpg", quality=98, exif=exif)
    picture = decode(tmp_path / "r.jpg")
    assert picture.rgb.shape == (40, 20, 3)
    assert close(picture.rgb[5, 10], RED, 25), "the left edge comes to the top"
    assert picture.note == "rotated"


def test_bad_files_say_why(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    cases = {
        "gone.jpg": (None, "no such file"),
        "empty.jpg": (b"", "0 bytes"),
        "text.jpg": (b"<html>404</html>", "not an image"),
        "half.jpg": (whole.read_bytes()[: whole.stat().st_size // 2], "broken"),
    }
    for name, (content, said) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImageError, match=said):
            decode(tmp_path / name)


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
    assert square(picture, 10, "stretch")[1, 1].tolist() == [50, 50, 50]
    padded = square(picture, 40, "pad")
    assert padded.shape == (40, 40, 3)
    assert (padded[12:28, :18] == 50).all()
    assert len(np.unique(padded[:8])) == 1, "above the picture there is one edge colour"


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(square(stripes, 32, "stretch").astype(int) - 128).max() <= 1


def test_file_pixels_equal_packed_ones(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    pixels = FilePixels([tmp_path / "a.png", tmp_path / "gone.png"], 16, "stretch")
    assert (pixels[0] == square(decode(tmp_path / "a.png").rgb, 16, "stretch")).all()
    with pytest.raises(BadImageError, match=r"gone.png: no such file"):
        pixels[1]


def test_twin_groups_join_across_pixels_and_column() -> None:
    ids = ["d", "b", "c", "a", "e"]
    digests = ["1", "1", "2", "3", "3"]
    groups = ["", "x", "x", "", ""]
    # d~b by pixels, b~c by column, a~e by pixels; each named by its smallest id
    assert twin_groups(digests, groups, ids) == ["b", "b", "b", "a", "a"]
    order = [4, 2, 0, 3, 1]
    again = twin_groups(*[[values[i] for i in order] for values in (digests, groups, ids)])
    assert again == ["a", "b", "b", "a", "b"]

"""The gallery: the original untouched, equal seeds equal pages, labels with their shares."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image, ImageFont

from pipeline.base.config import Experiment, load_experiment
from pipeline.data.augment import Resize
from pipeline.data.prepared import load_prepared
from pipeline.figures.sheet import ACCENT, Page, shorten, wrap
from pipeline.gallery import label_shares, mixing

MIX = {"mixup": 1.0, "cutmix": 1.0, "mosaic": True}
GALLERY = ["--rows", "2", "--columns", "3"]


@pytest.fixture
def experiment(write: Callable[..., str], run: Callable[..., str]) -> str:
    path = write(augment="leaves", mix=MIX)
    run("prepare", path)
    return path


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def enlarged(experiment: str, image: str) -> np.ndarray:
    """What validation sees of a picture, seven times as large."""
    prepared = load_prepared(load_experiment(experiment))
    row = prepared.rows.index[prepared.rows.id == image][0]
    resize = Resize(32, timm.get_pretrained_cfg("test_resnet").interpolation)
    return resize(prepared.pixels[row]).repeat(7, 0).repeat(7, 1)


def places(page: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Every (y, x) where `part` lies in the page, pixel for pixel."""
    height, width = part.shape[:2]
    starts = np.argwhere((page == part[0, 0]).all(2))
    return [
        (int(y), int(x))
        for y, x in starts
        if np.array_equal(page[y : y + height, x : x + width], part)
    ]


def test_page_has_its_size_and_begins_with_the_original(
    experiment: str, run: Callable[..., str], space: Path
) -> None:
    said = run("gallery", experiment, *GALLERY, "--image", "images/7.jpg")
    assert "5 views of one picture, mix-up, CutMix or mosaic in 100 % of the batches" in said
    page, layout = picture(space / "runs/tiny/gallery.png"), Page(32, 3)
    assert layout.side == 7 * 32 == 224
    assert page.shape[1] == 3 * 224 + 2 * layout.gap + 2 * layout.margin
    assert page.shape[0] > 5 * 224, "two rows of the picture, a row for each method"

    ((y, x),) = places(page, enlarged(experiment, "images/7.jpg"))
    assert x == layout.margin
    accent = np.argwhere((page == tuple(bytes.fromhex(ACCENT[1:]))).all(2))
    assert accent[:, 0].max() == y + 224 + 5, "the frame stands 6 px away"
    assert accent[:, 0].min() < y < 500, "it is in the first row"


def test_seed_decides(experiment: str, run: Callable[..., str], space: Path) -> None:
    for name, seed in {"a": "1", "b": "1", "c": "2"}.items():
        run("gallery", experiment, *GALLERY, "--seed", seed, "--out", str(space / f"{name}.png"))
    a, b, c = ((space / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_views_of_the_picture_differ_unless_nothing_augments(
    write: Callable[..., str], run: Callable[..., str], experiment: str, space: Path
) -> None:
    plain = write("plain", augment="none")
    assert "nothing is mixed" in run("gallery", plain, *GALLERY, "--image", "images/7.jpg")
    page = picture(space / "runs/plain/gallery.png")
    assert len(places(page, enlarged(plain, "images/7.jpg"))) == 6


def test_unknown_picture_is_one_line(experiment: str, run: Callable[..., str]) -> None:
    said = run("gallery", experiment, "--image", "images/7.jpeg", expect=2)
    assert said.startswith("error: --image: the competition has no 'images/7.jpeg'; did you mean")
    assert said.count("\n") == 1


def test_label_shares_largest_first() -> None:
    classes = ["acer_rubrum", "Tomato___Late_blight", "c", "d", "e", "f"]
    shares = np.array([0.38, 0.615, 0.004, 0.001, 0, 0])
    assert label_shares(shares, classes) == [
        ("Tomato Late blight", "62 %"),
        ("acer rubrum", "38 %"),
    ]
    assert len(label_shares(np.full(6, 1 / 6), classes)) == 4
    assert label_shares(np.eye(6)[2], classes) == [("c", "100 %")]


def test_mixing_in_words() -> None:
    def words(**mix: object) -> str:
        return mixing(Experiment(competition="demo", mix=mix, train={"epochs": 5}))

    assert words() == "nothing is mixed"
    assert words(mosaic=True, off_epochs=5) == "nothing is mixed"
    assert words(mosaic=True, prob=0.5) == "mosaic in 50 % of the batches"
    assert words(mixup=1, mosaic=True) == "mix-up or mosaic in 100 % of the batches"
    assert words(**MIX, off_epochs=2).endswith(
        "CutMix or mosaic in 100 % of the batches, epochs 1-3 of 5"
    )


def test_text_stays_within_its_width() -> None:
    font = ImageFont.load_default(size=20)
    assert shorten("acer", font, 100) == "acer"
    short = shorten("liquidambar styraciflua", font, 100)
    assert short.endswith("…")
    assert short.startswith("liqui")
    assert font.getlength(short) <= 100
    lines = wrap("one two three pneumonoultramicroscopic four", font, 100)
    assert all(font.getlength(line) <= 100 for line in lines)
    assert lines[0] == "one two"

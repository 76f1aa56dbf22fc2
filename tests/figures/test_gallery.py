"""The gallery: the original untouched, equal seeds equal pages, labels with their shares."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from pipeline.base.config import Experiment, load_experiment
from pipeline.data.prepared import load_prepared
from pipeline.data.resize import Resize
from pipeline.figures.pictures import SHOWN, Strip, draw_page
from pipeline.figures.views import label_shares, mixing, training_views

MIX = {"mixup": 1.0, "cutmix": 1.0}
GALLERY = ["--rows", "2", "--columns", "3"]


@pytest.fixture
def experiment(write: Callable[..., str], run: Callable[..., str]) -> str:
    path = write(augment="leaves", mix=MIX)
    run("prepare", path)
    return path


def views(experiment: str) -> list[Strip]:
    settings = load_experiment(experiment)
    return training_views(settings, load_prepared(settings), 2, 3, "images/7.jpg", seed=0)


def original(experiment: str, image: str) -> np.ndarray:
    """What validation sees of a picture."""
    prepared = load_prepared(load_experiment(experiment))
    row = prepared.rows.index[prepared.rows.id == image][0]
    resize = Resize(32, timm.get_pretrained_cfg("test_resnet").interpolation)
    return resize(prepared.pixels[row])


def test_the_original_comes_first_then_a_strip_for_each_method(experiment: str) -> None:
    augmented, *mixed = views(experiment)
    assert augmented.marked
    np.testing.assert_array_equal(augmented.pictures[0], original(experiment, "images/7.jpg"))
    assert len(augmented.pictures) == 6
    assert len({picture.tobytes() for picture in augmented.pictures}) == 6
    assert [strip.title for strip in mixed] == ["Mix-up", "CutMix"]
    for strip in mixed:
        assert len(strip.pictures) == len(strip.labels) == 3
        for label in strip.labels:
            assert abs(sum(int(share.split()[0]) for _, share in label) - 100) <= 2


def test_nothing_mixed_and_nothing_augmented_are_the_pictures(
    write: Callable[..., str], run: Callable[..., str], experiment: str
) -> None:
    plain = write("plain", augment="none")
    assert "nothing is mixed" in run("gallery", plain, *GALLERY, "--image", "images/7.jpg")
    again, batch = views(plain)
    for picture in again.pictures:
        np.testing.assert_array_equal(picture, original(plain, "images/7.jpg"))
    assert [[share for _, share in label] for label in batch.labels] == [["100 %"]] * 3


def test_seed_decides(experiment: str, run: Callable[..., str], space: Path) -> None:
    for name, seed in {"a": "1", "b": "1", "c": "2"}.items():
        run("gallery", experiment, *GALLERY, "--seed", seed, "--out", str(space / f"{name}.png"))
    a, b, c = ((space / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


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
    assert words(cutmix=1, off_epochs=5) == "nothing is mixed"
    assert words(cutmix=1, prob=0.5) == "CutMix in 50 % of the batches"
    assert words(**MIX, off_epochs=2).endswith(
        "mix-up or CutMix in 100 % of the batches, epochs 1-3 of 5"
    )


def test_a_page_shows_every_pixel_and_shortens_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 255, (5, 32, 32, 3), dtype=np.uint8))
    strip = Strip("title", "caption", pictures, [[("liquidambar styraciflua", "9 %")]] * 5)
    figure = draw_page("page", "caption", [strip, Strip("", "", pictures, marked=True)], 3)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("liquidambar styra…") == 5
    assert len("liquidambar styra…") == SHOWN
    boxes = np.array([axes.get_position().bounds for axes in figure.axes])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 1).all()
    np.testing.assert_allclose(boxes[:, 2:] * figure.bbox.size, 224)
    figure.savefig(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        page = np.asarray(image)[::-1]  # matplotlib counts from below
    x, y = (boxes[0, :2] * figure.bbox.size).round().astype(int)
    part = page[y : y + 224, x : x + 224][::-1]
    np.testing.assert_allclose(part[10:214:7, 10:214:7, :3], pictures[0][1:31, 1:31], atol=1)


def test_a_long_caption_stays_on_its_page() -> None:
    strip = Strip("title", "SquareSymmetry " * 12, [np.zeros((8, 8, 3), np.uint8)])
    figure = draw_page("page", "a caption of many words " * 9, [strip], columns=2)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert box.x1 <= figure.bbox.width, text.get_text()
    caption = figure.texts[-1].get_window_extent(renderer)
    assert caption.y0 > figure.axes[0].get_position().y1 * figure.bbox.height

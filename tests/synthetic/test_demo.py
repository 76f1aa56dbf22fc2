"""The demo competition: Kaggle's shape, the promised flaws, and a task that is no gift."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data.images import decode
from pipeline.demo import contact_sheet, draw_competition
from pipeline.synthetic.species import SPECIES


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real mixture of species, at a quarter of its pictures."""
    folder = tmp_path_factory.mktemp("full") / "demo"
    draw_competition(folder, train=500, test=100, size=96)
    return folder


def tables(folder: Path) -> list[pd.DataFrame]:
    names = ("train", "test", "sample_submission", "solution")
    return [pd.read_csv(folder / f"{name}.csv") for name in names]


def test_a_folder_of_other_things_is_left_alone(space: Path, run: Callable[..., str]) -> None:
    (space / "mine" / "leaves").mkdir(parents=True)
    refused = run("demo", "--data", str(space / "mine"), expect=2)
    assert "there is something else in it" in refused
    assert (space / "mine" / "leaves").is_dir()


def test_a_kill_before_the_record_is_no_folder_of_other_things(
    space: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.demo.draw_competition", lambda folder: None)  # it takes seconds
    assert "up to date" not in run("demo")
    assert "up to date" in run("demo")


def test_shape_of_the_tables(demo: Path) -> None:
    train, test, sample, solution = tables(demo)
    assert list(train) == list(sample) == list(solution) == ["image", "label"]
    assert list(test) == ["image"]
    assert list(test.image) == list(sample.image) == list(solution.image)
    assert len(SPECIES) >= 24
    assert set(solution.label) == set(train.label) == {species.name for species in SPECIES}
    assert (sample.label == solution.label).mean() < 0.3, "the sample gives nothing away"


def test_long_tail(demo: Path) -> None:
    counts = tables(demo)[0].label.value_counts()
    assert 4 < counts.max() / counts.min() < 8


def test_twins_and_contradictions(demo: Path) -> None:
    train, _, _, solution = tables(demo)
    train["hash"] = [decode(demo / image).digest for image in train.image]
    twins = train[train.duplicated("hash", keep=False)]
    assert 0.01 < len(twins) / len(train) < 0.03
    labels = twins.groupby("hash").label.nunique()
    assert (labels == 2).sum() == 2
    test_hashes = {decode(demo / image).digest for image in solution.image}
    assert len(test_hashes & set(train.hash)) == 2


def nearest_neighbour_accuracy(folder: Path, side: int = 32) -> float:
    """Hidden-test accuracy of the most similar thumbnail: what the task gives away for nothing."""
    train, solution = (pd.read_csv(folder / f"{name}.csv") for name in ("train", "solution"))

    def thumbnails(table: pd.DataFrame) -> np.ndarray:
        pictures = [cv2.resize(decode(folder / i).rgb, (side, side)) for i in table["image"]]
        return np.float32(pictures).reshape(len(table), -1)

    known, asked = thumbnails(train), thumbnails(solution)
    distance = (known**2).sum(1) - 2 * asked @ known.T
    guess = train["label"].to_numpy()[distance.argmin(1)]
    return float((guess == solution["label"]).mean())


def test_nearest_neighbour_on_thumbnails_stays_far_behind(demo: Path) -> None:
    assert 0.1 < nearest_neighbour_accuracy(demo) < 0.5


def test_seed_decides_and_workers_do_not(tmp_path: Path) -> None:
    for name, options in {"a": {}, "b": {"workers": 1}, "c": {"seed": 1}}.items():
        draw_competition(tmp_path / name, train=30, test=8, species=3, size=32, **options)
    a, b, c = ([f.read_bytes() for f in sorted((tmp_path / n).rglob("*.*"))] for n in "abc")
    assert a == b
    assert a != c


def test_contact_sheet(demo: Path, tmp_path: Path) -> None:
    contact_sheet(demo, tmp_path / "sheet.png", columns=8, rows=3)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert 3 * 128 < sheet.shape[0] < 8 * 128 < sheet.shape[1]
    assert sheet.std() > 20

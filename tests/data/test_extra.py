"""External data: trained on in every fold, never scored, and never a picture that is scored."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import load_experiment
from pipeline.base.runs import model_path
from pipeline.data.extra import extra_folder, extra_key, left_out, load_extra, with_extra
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, load_folds, split_rows
from pipeline.kaggle.bundle.train_bundle import files_of_home
from pipeline.train import make_trainer


@pytest.fixture
def more(space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three new pictures, copies of a test and of two training pictures, one of them blurred."""
    monkeypatch.chdir(space)
    home = Path("data/demo")
    train, test = (pd.read_csv(home / f"{name}.csv", dtype=str) for name in ("train", "test"))
    known = [cv2.imread(str(home / name)) for name in (*train.image[:2], test.image[0])]
    known[1] = cv2.resize(cv2.resize(known[1], (36, 36)), (48, 48))
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    new = [cv2.resize(one, (60, 50), interpolation=cv2.INTER_CUBIC) for one in noise]
    folder = Path("data/more")
    (folder / "jpg").mkdir(parents=True)
    for i, picture in enumerate([*known, *new]):
        cv2.imwrite(str(folder / "jpg" / f"{i}.png"), picture)
    label = [*train.label[:2], *train.label[[0, 5, 9, 9]], "a stone"]
    pd.DataFrame({"image": range(7), "label": label}).to_csv(folder / "more.csv", index=False)
    return folder / "more.csv"


EXTRA = {"extra": {"csv": "data/more/more.csv", "image": "jpg/{image}.png"}}


def test_new_pictures_join_the_training_part_alone(
    run: Callable[..., str], write: Callable[..., str], more: Path
) -> None:
    experiment = write("with", **EXTRA)
    told = run("prepare", experiment)
    assert (
        f"{more}: 3 of 7 external pictures are trained on; left out: 2 as in train, 1 as in test, "
        "1 of another class"
    ) in told
    run("folds", experiment)
    settings = load_experiment(experiment)
    prepared, table = load_prepared(settings), load_folds(settings)
    extra, rows = load_extra(settings)
    assert extra.record["left_out"] == {
        "0": "as in train",
        "1": "as in train",
        "2": "as in test",
        "6": "of another class",
    }
    assert len(table) == 60, "the split is the competition's own"
    trainer = make_trainer(settings, 0, prepared, table)
    assert len(trainer.rows) == (table.fold != 0).sum() + 3
    assert len(trainer.valid) == (table.fold == 0).sum()
    for row, its in zip(trainer.rows[-3:], rows.index, strict=True):
        assert np.array_equal(trainer.pixels[row], extra.pixels[its])
    assert np.array_equal(trainer.pixels[7], prepared.pixels[7])
    classes = classes_of(table)
    train = split_rows(prepared.rows, table, classes, 0)[0]
    both = with_extra(settings, prepared, train, classes, load_competition("demo").form)[0]
    assert [classes[t] for t in both.target[-3:]] == list(rows.label)
    assert set(both.fold[-3:]) == {-1}
    shared = settings.extra.model_copy(update={"share": 0.25})
    shared = make_trainer(settings.model_copy(update={"extra": shared}), 0, prepared, table)
    seen = [i for spec in shared.batches for i in spec.rows]
    times = np.bincount(seen).tolist()
    assert times[:30] == [1] * 30 and sorted(times[30:]) == [3, 3, 4], "10 of 40 are external"


def test_a_label_mended_in_train_csv_makes_strangers_known_and_known_ones_strangers(
    run: Callable[..., str], write: Callable[..., str], more: Path
) -> None:
    experiment, path = write("with", **EXTRA), Path("data/demo/train.csv")
    before, train = path.read_text(), pd.read_csv(path, dtype=str)
    run("prepare", experiment)
    train.assign(label=train.label.mask(train.index == 20, "a stone")).to_csv(path, index=False)
    assert "4 of 7 external pictures are trained on; left out: 2 as in train, 1 as in test," in run(
        "prepare", experiment
    )
    path.write_text(before)
    run("prepare", write("without"))
    prepared, form = load_prepared(load_experiment(experiment)), load_competition("demo").form
    with pytest.raises(UserError, match="label 'a stone' is none of the competition's by now; run"):
        with_extra(load_experiment(experiment), prepared, prepared.rows, [], form)


def test_all_are_compared_with_train_and_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.extra.CHUNK", 2)
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    drawn = [cv2.resize(one, (48, 48), interpolation=cv2.INTER_CUBIC) for one in noise]
    again = [cv2.resize(cv2.resize(one, (36, 36)), (48, 48)) for one in drawn[1:3]]
    facts = {"id": [*"abcde"], "hash": [*"abcde"], "label": [*"xxyxx"]}
    extra = SimpleNamespace(rows=pd.DataFrame(facts), pixels=[*drawn[3:], *again])
    facts = {"split": ["train", "train", "test"], "hash": [*"uvw"], "label": ["x", "x", None]}
    prepared = SimpleNamespace(rows=pd.DataFrame(facts), pixels=drawn[:3])
    found = left_out(extra, prepared, Competition(name="demo").form)
    assert found == {"c": "of another class", "d": "as in train", "e": "as in test"}


def test_they_are_compared_again_where_a_test_picture_is_another(
    run: Callable[..., str], write: Callable[..., str], more: Path
) -> None:
    experiment, home = write("with", **EXTRA), Path("data/demo")
    run("prepare", experiment)
    test = pd.read_csv(home / "test.csv", dtype=str).image
    cv2.imwrite(str(home / test[1]), cv2.imread(str(more.parent / "jpg/3.png")))
    told = "2 of 7 external pictures are trained on; left out: 2 as in train, 2 as in test,"
    assert told in run("prepare", experiment)


def test_their_share_and_their_pixels_are_in_the_key(
    run: Callable[..., str], write: Callable[..., str], more: Path
) -> None:
    experiment = write("with", **EXTRA)
    run("prepare", experiment)
    settings = load_experiment(experiment)
    before = extra_key(settings)
    shared = settings.extra.model_copy(update={"share": 0.25})
    found = extra_key(settings.model_copy(update={"extra": shared}))
    assert found == before | {"extra_share": 0.25}
    path = str(more.parent / "jpg/3.png")
    cv2.imwrite(path, 255 - cv2.imread(path))
    run("prepare", experiment)
    assert extra_key(settings).keys() == before.keys() and extra_key(settings) != before


def test_levels_that_are_none_of_the_competitions_are_strangers() -> None:
    known, given = pd.Series(["0", "1", "4"]), pd.Series(["01", "-1", "4", "5", "2"])
    form = Competition(task="ordinal").form
    assert form.strangers(given, known).tolist() == [False, True, False, True, True]
    labels = pd.Series(["a b", "b"]), pd.Series(["b a", "b c", "a"])
    form = Competition(task="multi-label").form
    assert form.strangers(*reversed(labels)).tolist() == [False, True, False]


def test_they_are_in_the_key_and_travel(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], more: Path
) -> None:
    lda = {"model": {"features": "blocks", "head_init": "lda"}, "train": {"epochs": 1}}
    experiment = split(write("with", **EXTRA | lda))
    run("train", experiment, "--fold", "0")
    record = records.load(model_path("with", 0))
    assert record["images"] == {"train": 33, "valid": 30}
    settings = load_experiment(experiment)
    files = files_of_home(settings, load_competition(settings.competition), [0])
    assert {more, *(more.parent / "jpg" / f"{i}.png" for i in range(7))} <= set(files)
    assert "7 external" in run("prepare", experiment)
    more.write_text(more.read_text().replace("\n6,a stone", ""))
    assert "no pictures" not in run("prepare", experiment)
    assert "up to date" in run("train", experiment, "--fold", "0"), "the same are trained on"
    table = pd.read_csv(more, dtype=str)
    table.label = table.label[::-1].to_numpy()
    table.to_csv(more, index=False)
    run("prepare", experiment)
    told = run("train", experiment, "--fold", "0", expect=2)
    assert "was trained with other settings: extra: " in told
    shutil.rmtree(extra_folder(load_experiment(experiment)))
    told = run("train", experiment, "--fold", "0", expect=2)
    assert f"run python -m pipeline.prepare {experiment}" in told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": {"csv": "data/none.csv"}}, "data/none.csv"),
        ({"extra": {"csv": "data/more/more.csv"}}, "7 of 7 pictures cannot be used"),
        (EXTRA | {"train": {"epochs": 0}}, "extra: needs train.epochs"),
        (
            {"extra": EXTRA["extra"] | {"share": 0.5}, "train": {"sampler": "sqrt"}},
            "extra.share: needs train.sampler: none",
        ),
    ],
)
def test_what_cannot_be_is_told(
    changes: dict, said: str, run: Callable[..., str], write: Callable[..., str], more: Path
) -> None:
    lda = {"model": {"head_init": "lda"}}
    assert said in run("prepare", write("wrong", **lda | changes), expect=2)

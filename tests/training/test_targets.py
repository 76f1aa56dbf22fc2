"""Soft targets: twins share their labels, a teacher's probabilities are blended in, leaks refused.

The tiny competition is drawn with contradictory twins; `split` puts them into one fold.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.base import records
from pipeline.base.config import load_experiment
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, folds_digest, load_folds, split_rows
from pipeline.inference.predictions import Predictions
from pipeline.training.targets import training_targets, twin_rows


def targets(experiment: str, fold: int = 0) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    settings = load_experiment(experiment)
    table = load_folds(settings)
    classes = classes_of(table)
    train, _ = split_rows(load_prepared(settings).rows, table, classes, fold)
    found = training_targets(settings, fold, folds_digest(table), train, classes)
    return found, train, classes


def test_twins_share_their_labels() -> None:
    rows = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 0]]
    shared = twin_rows(rows, np.array(["b", "b", "c", "b", "a"]))
    third = np.float32([2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(shared, [third, third, [0, 0, 1], third, [1, 0, 0]], rtol=1e-6)
    assert shared.dtype == np.float32


def test_only_contradictory_twins_are_softened(
    write: Callable[..., str], split: Callable[[str], str]
) -> None:
    experiment = split(write())
    labels, _, _ = targets(experiment)
    assert labels.dtype == np.int64
    softened = 0
    for fold in (0, 1):
        soft, train, classes = targets(write(train={"twins": "soft"}), fold)
        assert soft.shape == (len(train), len(classes))
        conflict = (train.groupby("hash").target.transform("nunique") > 1).to_numpy()
        hard = np.eye(len(classes))[train.target]
        np.testing.assert_array_equal(soft[~conflict], hard[~conflict])
        assert set(soft[conflict].max(1)) <= {0.5}
        softened += conflict.sum()
    assert softened == 2


@pytest.fixture
def teacher(run: Callable[..., str], trained: str) -> str:
    run("predict", trained, "--split", "oof")
    return trained


def test_distilled_targets_are_the_blend(teacher: str, write: Callable[..., str]) -> None:
    got, train, classes = targets(write("student", train={"distill": teacher}))
    file = Predictions.load(oof(teacher, 1))
    prob = file.prob[[file.image.index(name) for name in train.image]]
    assert file.classes == classes
    hard = np.eye(len(classes))[train.target]
    np.testing.assert_allclose(got, 0.3 * prob + 0.7 * hard, rtol=1e-5)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def test_a_teacher_of_several_sizes_is_found(
    run: Callable[..., str], trained: str, write: Callable[..., str]
) -> None:
    """Its predictions carry the sizes in their names."""
    wide = write(predict={"tta": "hflip", "sizes": [32, 40]})
    run("predict", wide, "--split", "oof")
    got, _, _ = targets(write("student", train={"distill": wide}))
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)


def oof(run: str, fold: int) -> Path:
    return Path(run).parent / "runs" / Path(run).stem / f"fold{fold}" / "oof.none.npz"


def test_always_trained_rows_have_no_teacher(teacher: str, write: Callable[..., str]) -> None:
    """A row of fold -1 is in no out-of-fold file: its label stands."""
    settings = load_experiment(write("student", train={"distill": teacher}))
    table = load_folds(settings)
    classes, digest = classes_of(table), folds_digest(table)
    train, _ = split_rows(load_prepared(settings).rows, table, classes, 0)
    always = train.iloc[:1].assign(image="always", fold=-1)
    got = training_targets(settings, 0, digest, pd.concat([always, train]), classes)
    assert got[0].tolist() == np.eye(len(classes))[train.target.iloc[0]].tolist()
    assert got[1:].min() > 0


def test_a_distilled_run_trains_and_says_what_its_score_is(
    run: Callable[..., str], teacher: str, write: Callable[..., str], space: Path
) -> None:
    hard = {"train": {"distill": teacher, "twins": "soft", "label_smoothing": 0.1, "loss": "bce"}}
    student = write("student", mix={"mixup": 0.4}, **hard)
    said = run("train", student, "--fold", "0")
    assert "70% labels, 30% out-of-fold probabilities of" in said
    assert "slightly optimistic" in said
    record = records.load(space / "runs/student/fold0/model.safetensors")
    assert record["key"]["teacher"] == {"oof1": records.file_digest(oof(teacher, 1))}
    assert "up to date" in run("train", student, "--fold", "0")
    run("predict", student, "--split", "oof", expect=2)  # fold 1 is not there yet
    again = Predictions.load(oof(teacher, 1))
    Predictions(again.image, again.classes, again.prob[:, ::-1]).save(oof(teacher, 1))
    records.commit(oof(teacher, 1), {}, 0.0, folds=record["key"]["folds"])
    assert "teacher.oof1: " in run("train", student, "--fold", "0", expect=2)


def test_teachers_that_would_leak_or_are_not_there_are_refused(
    run: Callable[..., str], teacher: str, write: Callable[..., str], space: Path
) -> None:
    def refused(name: str, distill: str, **changes: object) -> str:
        said = run("train", write(name, train={"distill": distill}, **changes), expect=2)
        assert len(said.strip().splitlines()) == 1
        return said

    assert "train.distill: no experiment 'nobody'" in refused("a", "nobody")
    assert "cannot be its own teacher" in refused("b", str(space / "b.yaml"))
    untrained = write("untrained")
    assert "run python -m pipeline.predict" in refused("c", untrained)
    run("folds", write("other", folds={"seed": 1}))
    assert "other folds: it would leak" in refused("other", teacher, folds={"seed": 1})
    foreign = write("foreign", competition="leaves-twins")
    assert "is of competition 'leaves-twins'" in refused("d", foreign)


def test_a_label_that_the_teacher_does_not_know_is_refused(
    run: Callable[..., str], teacher: str, write: Callable[..., str]
) -> None:
    path = oof(teacher, 1)
    file, folds = Predictions.load(path), records.load(path)["folds"]
    Predictions(file.image, ["?", *file.classes[1:]], file.prob).save(path)
    records.commit(path, {}, 0.0, folds=folds)
    student = write("student", train={"distill": teacher})
    said = run("train", student, "--fold", "0", expect=2)
    assert f"train.distill: {path}: no prediction for 1 class names" in said

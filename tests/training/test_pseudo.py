"""Pseudo-labels: sure test pictures are taught by the fold's own models, and weigh less."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Experiment, Train, load_experiment, root
from pipeline.base.runs import prediction_path
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, folds_digest, load_folds, split_rows
from pipeline.inference.predictions import Predictions
from pipeline.training.keys import train_key
from pipeline.training.loss import Loss
from pipeline.training.pseudo import with_pseudo

Make = Callable[..., Experiment]


@pytest.fixture
def pupil(write: Callable[..., str], split: Callable[[str], str]) -> Make:
    """An experiment taught by a blend whose members are sure of other pictures in each fold."""
    settings = load_experiment(split(write("plain")))
    table, prepared = load_folds(settings), load_prepared(settings)
    test, classes = list(prepared.rows.id[prepared.rows.split == "test"]), classes_of(table)
    members: dict[str, dict[str, str]] = {"one": {"tta": "none"}, "two": {"tta": "hflip"}}
    for run, about in members.items():
        for fold in (0, 1):
            prob = np.full((12, 4), 0.25, dtype=np.float32)
            prob[3 + fold] = [0.02, 0.9, 0.08, 0]
            prob[7] = [1, 0, 0, 0] if run == "one" else [0.2, 0.8, 0, 0]
            path = prediction_path(run, fold, "test", about["tta"])
            Predictions(test, classes, prob).save(path)
            key = {"pixels": prepared.record["digests"]["test"]}
            records.commit(path, key, 0.0)
            about[f"test{fold}"] = records.load(path)["digest"]
    out = root("runs") / "both" / "test.npz"
    Predictions(test, classes, prob).save(out)
    weights = {"one": 0.75, "two": 0.25}
    key = {"members": members, "weights": weights, "folds": folds_digest(table)}
    records.commit(out, key, 0.0)

    def make(name: str = "pupil", **pseudo: object) -> Experiment:
        return load_experiment(write(name, pseudo={"run": "both", **pseudo}))

    return make


def taught(settings: Experiment, fold: int, soft: bool = False) -> tuple:
    table, prepared = load_folds(settings), load_prepared(settings)
    classes = classes_of(table)
    train, _ = split_rows(prepared.rows, table, classes, fold)
    labels = train.target.to_numpy()
    targets = np.eye(len(classes))[labels] if soft else labels
    return train, labels, *with_pseudo(settings, fold, prepared, classes, train, targets)


@pytest.mark.parametrize("soft", [False, True])
def test_sure_pictures_of_the_own_fold_join_with_their_weight(pupil: Make, soft: bool) -> None:
    settings = pupil(threshold=0.8, weight=0.25, power=2)
    rows = load_prepared(settings).rows
    test = list(rows.id[rows.split == "test"])
    for fold in (0, 1):
        train, labels, both, targets = taught(settings, fold, soft)
        more = both[len(train) :]
        # of picture 7 the blend says .75 × 1 + .25 × .2
        assert list(more.image) == [test[3 + fold], test[7]] and list(more.target) == [1, 0]
        assert list(rows.id[more.row]) == list(more.image) and set(more.fold) == {-1}
        assert targets.dtype == np.float32 and targets[: len(train)].argmax(1).tolist() == [*labels]
        first, second = np.square([0.02, 0.9, 0.08, 0]), np.square([0.8, 0.2, 0, 0])
        expected = [0.25 * first / first.sum(), 0.25 * second / second.sum()]
        np.testing.assert_allclose(targets[len(train) :], expected, atol=1e-6)


def test_without_it_nothing_changes_and_with_it_the_key_names_the_answers(
    pupil: Make, write: Callable[..., str]
) -> None:
    plain = load_experiment(write("plain"))
    table, prepared = load_folds(plain), load_prepared(plain)
    train, labels, both, targets = taught(plain, 0)
    assert both is train and targets is labels
    assert "pseudo" not in train_key(plain, 0, prepared, table)
    keys = [train_key(pupil(), fold, prepared, table)["pseudo"] for fold in (0, 1)]
    assert keys[0]["threshold"] == 0.9 and keys[0]["weight"] == 0.5
    assert set(keys[0]["answers"]) == {"one", "two"} and keys[0]["answers"] != keys[1]["answers"]


def test_a_run_that_cannot_teach_is_one_line(pupil: Make, write: Callable[..., str]) -> None:
    settings = pupil()
    table, prepared = load_folds(settings), load_prepared(settings)
    with pytest.raises(UserError, match="of other folds than pupil: it would leak"):
        train_key(settings, 0, prepared, table[:-1])
    answers = prediction_path("two", 1, "test", "hflip")
    record = records.load(answers)
    Predictions.load(answers).save(answers)
    records.commit(answers, {**record["key"], "pixels": "others"}, 0.0)
    train_key(settings, 0, prepared, table)  # the other fold's are well
    with pytest.raises(UserError, match="the test pictures have changed since"):
        train_key(settings, 1, prepared, table)
    answers.unlink()
    with pytest.raises(UserError, match=r"two/fold1/test.hflip.npz: not what .* blended from"):
        train_key(settings, 1, prepared, table)
    with pytest.raises(UserError, match=r"pseudo: needs train\.epochs, loss: cross_entropy and"):
        load_experiment(write("smooth", pseudo={"run": "both"}, train={"label_smoothing": 0.1}))


def test_half_a_weight_is_half_a_loss() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    one = torch.tensor([[1.0, 0, 0], [0, 0.8, 0.2]])
    loss = Loss(Train()).per_row
    assert torch.allclose(loss(logits, 0.5 * one), 0.5 * loss(logits, one))


def test_training_takes_them_and_the_heads_start_does_not(
    pupil: Make, run: Callable[..., str], write: Callable[..., str]
) -> None:
    how = {"model": {"features": "blocks", "head_init": "lda"}, "train": {"epochs": 1}}
    run("train", write("plain", **how), "--fold", "0")
    pseudo = {"run": "both", "threshold": 0.85}
    run("train", write("more", pseudo=pseudo, **how), "--fold", "0")
    plain, more = (
        records.load(root("runs") / name / "fold0" / "model.safetensors")
        for name in ("plain", "more")
    )
    assert more["images"]["train"] == plain["images"]["train"] + 1
    assert more["start"] == plain["start"] and more["digest"] != plain["digest"]

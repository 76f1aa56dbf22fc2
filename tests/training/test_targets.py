"""Contradictory twins: kept, dropped, settled by majority, or given the mean of their labels.

The tiny competition is drawn with contradictory twins; `split` puts them into one fold.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.base.cli import UserError
from pipeline.base.config import Train, load_experiment
from pipeline.base.forms import as_array, in_cells
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, load_folds, split_rows
from pipeline.inference.answers import Answer
from pipeline.train import make_trainer
from pipeline.training.loss import settled, standardised_targets, training_targets, twin_rows


def targets(experiment: str, fold: int = 0) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    settings = load_experiment(experiment)
    table = load_folds(settings)
    classes = classes_of(table)
    train, _ = split_rows(load_prepared(settings).rows, table, classes, fold)
    found = training_targets(settings.train, train, len(classes))
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
        soft, train, classes = targets(write(train={"conflicts": "soft"}), fold)
        assert soft.shape == (len(train), len(classes))
        conflict = (train.groupby("hash").target.transform("nunique") > 1).to_numpy()
        hard = np.eye(len(classes))[train.target]
        np.testing.assert_array_equal(soft[~conflict], hard[~conflict])
        assert set(soft[conflict].max(1)) <= {0.5}
        softened += conflict.sum()
    assert softened == 2


def test_contradictory_twins_are_dropped_or_settled_by_majority() -> None:
    train = pd.DataFrame(
        {"target": [0, 1, 1, 2, 0, 1, 0], "hash": [*"aaabbcd"]}, index=[*"tuvwxyz"]
    )
    assert settled(Train(), train, ["k", "l", "m"]) is train
    by_most = settled(Train(conflicts="majority"), train, ["k", "l", "m"])
    assert by_most.target.tolist() == [1, 1, 1, 2, 0, 1, 0], "two to one, and a tie"
    assert by_most.index.tolist() == [*"tuvwxyz"] and by_most.target.dtype == np.int64
    with pytest.raises(UserError, match="no training picture of 'm'; take soft or majority"):
        settled(Train(conflicts="drop"), train, ["k", "l", "m"])
    rare = train.assign(hash=[*"aaaabcd"])  # the only m is a twin of two l
    with pytest.raises(UserError, match="majority leaves no training picture of 'm'; take soft"):
        settled(Train(conflicts="majority"), rare, ["k", "l", "m"])
    more = pd.concat([train, pd.DataFrame({"target": [2], "hash": ["e"]}, index=["A"])])
    assert settled(Train(conflicts="drop"), more, ["k", "l", "m"]).index.tolist() == [*"yzA"]


def test_what_was_called_twins_hard_is_conflicts_keep() -> None:
    assert Train(twins="hard") == Train() and Train(twins="soft").conflicts == "soft"
    key = Train().model_dump(mode="json", by_alias=True)
    assert key["twins"] == "hard" and "conflicts" not in key, "runs of before are not trained anew"


def test_numbers_are_taught_transformed_and_turned_back_within_their_range() -> None:
    values = [(0.0, 1.0), (3.0, 1.0), (8.0, 5.0), (99.0, 2.0)]
    train = pd.DataFrame({"target": in_cells(values, pd.Series(range(4)))})
    for transform, of in (("none", np.asarray), ("log1p", np.log1p), ("sqrt", np.sqrt)):
        taught, answer = standardised_targets(train, "numbers", transform)
        rows = as_array(taught.target)
        np.testing.assert_allclose(rows.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(rows * of(values).std(0), of(values) - of(values).mean(0))
        np.testing.assert_allclose(answer(torch.tensor(rows)), values, rtol=1e-5)
        beyond = answer(torch.tensor([[50.0, -50.0]]))
        np.testing.assert_allclose(beyond, [[99, 1]], rtol=1e-5)
        assert Answer(**answer.fact["answer"]) == answer
    assert Answer("numbers", [1.0], [2.0])(torch.tensor([[50.0]])).item() == 101  # of before


def test_what_contradicts_itself_is_not_trained_on(
    write: Callable[..., str], split: Callable[[str], str]
) -> None:
    settings = load_experiment(split(write(train={"conflicts": "drop"})))
    prepared, table = load_prepared(settings), load_folds(settings)
    trained = [len(make_trainer(settings, fold, prepared, table).rows) for fold in (0, 1)]
    assert sum(trained) == len(table) - 2

"""What training images are taught: labels, or soft rows of twins and of an earlier run."""

import numpy as np
import pandas as pd

from pipeline.base.cli import UserError
from pipeline.base.config import Experiment
from pipeline.inference.predictions import Predictions
from pipeline.training.keys import teacher_files


def training_targets(
    settings: Experiment, fold: int, folds: str, train: pd.DataFrame, classes: list[str]
) -> np.ndarray:
    """int64 [n] labels, or float32 [n, classes] rows that sum to 1 (`twins: soft`, `distill`).

    `train` is the training part of `fold` (image, target, hash, fold); `folds` is the digest of
    the split. Raises UserError where the teacher's predictions cannot be used.
    """
    labels, how = train.target.to_numpy(), settings.train
    if how.twins == "hard" and how.distill is None:
        return labels
    rows = np.eye(len(classes), dtype=np.float32)[labels]
    if how.twins == "soft":
        rows = twin_rows(rows, train.hash.to_numpy())
    if how.distill is not None:
        taught = train.fold.to_numpy() >= 0
        prob = teacher_rows(settings, fold, folds, train[taught], classes)
        share = how.distill_weight
        rows[taught] = share * prob + (1 - share) * rows[taught]
    return rows


def twin_rows(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Each row becomes the mean row of all images with the same pixels.

    Equal pixels, not equal groups: pictures of one patient may well have different labels.
    Twins never straddle folds, so that held-out labels take no part.
    """
    _, group = np.unique(hashes, return_inverse=True)
    sums = np.zeros((group.max() + 1, rows.shape[1]), dtype=np.float32)
    np.add.at(sums, group, rows)
    return (sums / np.bincount(group)[:, None]).astype(np.float32)[group]


def teacher_rows(
    settings: Experiment, fold: int, folds: str, train: pd.DataFrame, classes: list[str]
) -> np.ndarray:
    """Out-of-fold probabilities float32 [n, classes] of another run for these training images.

    Each comes from a model that had not seen the image, so that it tells of doubt, not of
    memory (1st place of Plant Pathology 2020). It is not free of leaks: that model was trained
    on the other folds, this fold's held-out images among them, and their labels colour what it
    says. The leak is of second order, but scores of distilled runs are slightly optimistic;
    compare them on a hidden test set.
    """
    prob = np.empty((len(train), len(classes)), dtype=np.float32)
    for number, path in teacher_files(settings, fold, folds).items():
        here = (train.fold == number).to_numpy()
        try:
            prob[here] = Predictions.load(path).aligned(list(train.image[here]), classes)
        except UserError as error:
            raise UserError(f"train.distill: {error}") from None
    return prob

"""What a training image is taught: its label, or with `twins: soft` the labels of its twins."""

import numpy as np
import pandas as pd

from pipeline.base.config import Train


def training_targets(settings: Train, train: pd.DataFrame, classes: int) -> np.ndarray:
    """int64 [n] labels, or with `twins: soft` float32 [n, classes] rows that sum to 1.

    `train` is the training part of a fold (target, hash).
    """
    labels = train.target.to_numpy()
    if settings.twins == "hard":
        return labels
    return twin_rows(np.eye(classes, dtype=np.float32)[labels], train.hash.to_numpy())


def twin_rows(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Each row becomes the mean row of all images with the same pixels.

    Equal pixels, not equal groups: pictures of one patient may well have different labels.
    Twins never straddle folds, so that held-out labels take no part.
    """
    _, group = np.unique(hashes, return_inverse=True)
    sums = np.zeros((group.max() + 1, rows.shape[1]), dtype=np.float32)
    np.add.at(sums, group, rows)
    return (sums / np.bincount(group)[:, None]).astype(np.float32)[group]

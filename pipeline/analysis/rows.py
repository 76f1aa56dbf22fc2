"""How good a blend is on each label of several, and on each column of numbers."""

import numpy as np
import pandas as pd

from pipeline.inference.metrics import auc, average_precision, mae, pearson, r2, rmse


def label_table(
    target: np.ndarray, prob: np.ndarray, answer: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Of each label: name, n (pictures that have it), ap, auc, f1, recall and precision.

    `target` and `answer` are bool [n, C], `prob` the chances [n, C]. NaN is what cannot be said of
    a label that no picture has, or all, or none is given.
    """
    n, given, right = target.sum(0), answer.sum(0), (target & answer).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, precision, f1 = right / n, right / given, 2 * right / (n + given)
    columns = [slice(i, i + 1) for i in range(len(classes))]
    some = [0 < count < len(target) for count in n]
    areas = [auc(target[:, c], prob[:, c]) for c in columns]
    pairs = zip(columns, some, strict=True)
    ap = [average_precision(target[:, c], prob[:, c]) if ok else np.nan for c, ok in pairs]
    values = {"ap": ap, "auc": areas, "f1": f1, "recall": recall, "precision": precision}
    return pd.DataFrame({"name": classes, "n": n, **values})


def number_table(target: np.ndarray, prob: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Of each column of numbers [n, C]: name, rmse, mae, r2, pearson, and bias, the mean error."""
    found = []
    for i, name in enumerate(classes):
        own, said = target[:, i : i + 1], prob[:, i : i + 1]
        scores = {f.__name__: f(own, said) for f in (rmse, mae, r2, pearson)}
        found.append({"name": name, **scores, "bias": float((said - own).mean())})
    return pd.DataFrame(found)

"""Which classes are right, which are taken for which, and how good labels and numbers are."""

import numpy as np
import pandas as pd

from pipeline.inference.metrics import auc, average_precision, mae, pearson, r2, rmse


def class_table(target: np.ndarray, answer: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Of each class: n, right, recall, precision, and the class most of its errors go to.

    `target` and `answer` are int [n]. Columns: name, n, right, recall, precision (NaN where a
    class is never answered), confused (a class number or -1), times.
    """
    counts = confusion(target, answer, len(classes))
    right, wrong = counts.diagonal(), counts - np.diag(counts.diagonal())
    table = pd.DataFrame({"name": classes, "n": counts.sum(1), "right": right})
    table["recall"], table["precision"] = right / table.n, right / pd.Series(counts.sum(0))
    table["times"] = wrong.max(1)
    return table.assign(confused=np.where(table.times > 0, wrong.argmax(1), -1))


def label_table(
    target: np.ndarray, prob: np.ndarray, answer: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Of each label: name, n (pictures that have it), ap, auc, f1, recall and precision.

    `target` and `answer` are bool [n, C], `prob` the chances [n, C]. NaN is what cannot be said of
    a label that no picture has, or all, or none is given.
    """
    right, given = pd.Series((target & answer).sum(0)), answer.sum(0)
    table = pd.DataFrame({"name": classes, "n": target.sum(0)})
    table["recall"], table["precision"] = right / table.n, right / given
    table["f1"] = 2 * right / (table.n + given)
    columns = [(target[:, [i]], prob[:, [i]]) for i in range(len(classes))]
    table["auc"] = [auc(*column) for column in columns]
    ap = [average_precision(*c) if 0 < c[0].mean() < 1 else np.nan for c in columns]
    return table.assign(ap=ap)


def number_table(target: np.ndarray, prob: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Of each column of numbers [n, C]: name, rmse, mae, r2, pearson, and bias, the mean error."""
    found = []
    for i, name in enumerate(classes):
        own, said = target[:, [i]], prob[:, [i]]
        scores = {score.__name__: score(own, said) for score in (rmse, mae, r2, pearson)}
        found.append({"name": name, **scores, "bias": float((said - own).mean())})
    return pd.DataFrame(found)


def confusion(target: np.ndarray, answer: np.ndarray, n: int) -> np.ndarray:
    """Counts int [n, n]: how many of class i (row) were called j (column)."""
    return np.bincount(target * n + answer, minlength=n * n).reshape(n, n)


def worst_pairs(
    target: np.ndarray, answer: np.ndarray, n: int, most: int
) -> list[tuple[int, int, int]]:
    """The pairs of classes that are mixed up most, in both directions together.

    Each is (true, called, count of both) with `true` the class that loses more; pairs with no
    error are left out.
    """
    counts = confusion(target, answer, n)
    both = np.triu(counts + counts.T, 1)
    worst = np.argsort(-both, axis=None, kind="stable")[:most]
    pairs = [divmod(int(flat), n) for flat in worst if both.flat[flat]]
    pairs = [(i, j) if counts[i, j] >= counts[j, i] else (j, i) for i, j in pairs]
    return [(i, j, int(counts[i, j] + counts[j, i])) for i, j in pairs]


def ceiling(group: np.ndarray, label: pd.Series) -> float:
    """The best accuracy that any answer can have which gives equal pictures equal labels.

    In a group of twins with contradictory labels only the most frequent label can be right.
    """
    counts = label.groupby([group, label]).size()
    return float(counts.groupby(level=0).max().sum() / len(label))

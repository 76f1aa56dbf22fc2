"""Which classes are right, and which are taken for which."""

import numpy as np
import pandas as pd


def class_table(target: np.ndarray, answer: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Of each class: n, right, recall, precision, and the class most of its errors go to.

    `target` and `answer` are int [n]. Columns: name, n, right, recall, precision (NaN where a
    class is never answered), confused (a class number or -1), times.
    """
    counts = confusion(target, answer, len(classes))
    n, answered, right = counts.sum(1), counts.sum(0), counts.diagonal()
    wrong = counts - np.diag(right)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, precision = right / n, right / answered
    times = wrong.max(1)
    return pd.DataFrame(
        {
            "name": classes,
            "n": n,
            "right": right,
            "recall": recall,
            "precision": precision,
            "confused": np.where(times > 0, wrong.argmax(1), -1),
            "times": times,
        }
    )


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


def ceiling(group: pd.Series, label: pd.Series) -> float:
    """The best accuracy that any answer can have which gives equal pictures equal labels.

    In a group of twins with contradictory labels only the most frequent label can be right.
    """
    counts = label.groupby([group, label]).size()
    return float(counts.groupby(level=0).max().sum() / len(label))

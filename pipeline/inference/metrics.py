"""Competition metrics, most from scikit-learn.

The target is int [n] (a class a picture), bool [n, classes] (labels) or float [n, columns]
(numbers); `prob` [n, classes or columns] is what is predicted. A metric of decided answers takes
the likeliest class, labels from .5 on, and the nearest whole number.
"""

from collections import ChainMap
from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np

from pipeline.base import plugins
from pipeline.base.forms import parts_of

Score = Callable[[np.ndarray, np.ndarray], float]
TINY = 1e-7  # float32 knows no probability between it and 1


def scikit_learn() -> ModuleType:
    """Late: half a second, that each process would wait for, and accuracy does not need."""
    from sklearn import metrics

    return metrics


def decided(target: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """The answers, in the target's form."""
    if target.ndim == 1:
        return prob.argmax(1)
    if target.dtype == bool:
        return prob >= 0.5
    return np.rint(prob)  # within the levels of training, which these rows may not all have


def rows_of(target: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """bool [n, classes]: what is true of each picture."""
    return target[:, None] == np.arange(prob.shape[1]) if target.ndim == 1 else target


def accuracy(target: np.ndarray, prob: np.ndarray) -> float:
    """Of several labels a picture: all of them right."""
    right = target == decided(target, prob)
    return float((right if target.ndim == 1 else right.all(1)).mean())


def balanced_accuracy(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean recall of the classes that are there: an answer of another one is wrong, and no more."""
    right = target[target == decided(target, prob)]
    n, hits = (np.bincount(one, minlength=prob.shape[1]) for one in (target, right))
    return float((hits[n > 0] / n[n > 0]).mean())


def log_loss(target: np.ndarray, prob: np.ndarray) -> float:
    """Of several labels a picture: the mean over the columns."""
    prob = prob.astype(np.float64)
    if target.ndim == 2:
        prob = prob.clip(TINY, 1 - TINY)
        return float(-np.log(np.where(target, prob, 1 - prob)).mean())
    right = prob[np.arange(len(prob)), target] / prob.sum(1)  # powers are judged by it, often
    return float(-np.log(right.clip(np.finfo(float).eps)).mean())


def balanced_log_loss(target: np.ndarray, prob: np.ndarray) -> float:
    """Every class that is there counts alike, however rare."""
    parts = [target == label for label in np.unique(target)]
    return float(np.mean([log_loss(target[own], prob[own]) for own in parts]))


def f_score(target: np.ndarray, prob: np.ndarray, beta: float, average: str) -> float:
    """By counts, in a thirtieth of scikit-learn's time: thresholds ask it often.

    Where nothing is there and nothing found it is 0; of classes such a one does not count.
    """
    found = decided(target, prob)
    if target.ndim == 1:
        sets, n = (target[target == found], target, found), prob.shape[1]
        hits, true, called = (np.bincount(one, minlength=n) for one in sets)
    else:
        axis = {"macro": 0, "samples": 1, "micro": None}[average]
        hits, true, called = (one.sum(axis) for one in (target & found, target, found))
    scores = (1 + beta**2) * hits / np.maximum(beta**2 * true + called, TINY)
    if average == "binary":
        return float(scores[1])
    return float(scores[true + called > 0].mean() if target.ndim == 1 else scores.mean())


def auc(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean area under the ROC curve of each class against the rest, where both are present; of two
    classes that of the second.

    By ranks (Mann and Whitney 1947): all classes at once, in a fifth of the time.
    """
    from scipy.stats import rankdata  # late: half a second

    own = rows_of(target, prob)
    if target.ndim == 1 and prob.shape[1] == 2:  # 1 less a tiny chance is 1: ties
        own, prob = own[:, 1:], prob[:, 1:]
    n, others = own.sum(0), (~own).sum(0)
    wins = (rankdata(prob, axis=0) * own).sum(0) - n * (n + 1) / 2  # ties are half a win
    present = (n > 0) & (others > 0)
    areas = wins[present] / (n * others)[present]
    return float(areas.mean()) if len(areas) else float("nan")


def average_precision(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean over the labels that are present; of two classes that of the second."""
    own, prob = (target[:, None] == 1, prob[:, 1:]) if target.ndim == 1 else (target, prob)
    present = own.any(0)
    if not present.any():
        return float("nan")  # scikit-learn warns, and says 0
    return float(scikit_learn().average_precision_score(own[:, present], prob[:, present]))


def mcc(target: np.ndarray, prob: np.ndarray) -> float:
    return float(scikit_learn().matthews_corrcoef(target, prob.argmax(1)))


def quadratic_kappa(target: np.ndarray, prob: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights; classes are ordered as `class_order` says.

    By the squared error over that of chance: cuts ask it often. Undefined where all is one level.
    """
    true, found = target.ravel().astype(float), decided(target, prob).ravel()
    by_chance = true.var() + found.var() + (true.mean() - found.mean()) ** 2
    return float(1 - ((true - found) ** 2).mean() / by_chance) if by_chance else float("nan")


def map_at(target: np.ndarray, prob: np.ndarray, k: int) -> float:
    """Mean average precision of the `k` likeliest classes: one over the place of the right one.

    As `answers` has it, a class stands behind those that are as likely and come before.
    """
    best = np.argsort(-prob, axis=1, kind="stable")[:, :k]
    return float(((best == target[:, None]) / np.arange(1, k + 1)[: best.shape[1]]).sum(1).mean())


def top(target: np.ndarray, prob: np.ndarray, k: int) -> float:
    """Share of pictures whose class is among the `k` likeliest; ties as in `map_at`."""
    best = np.argsort(-prob, axis=1, kind="stable")[:, :k]
    return float((best == target[:, None]).any(1).mean())


def rmse(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean over the columns."""
    return float(np.sqrt(((target - prob) ** 2).mean(0)).mean())


def mae(target: np.ndarray, prob: np.ndarray) -> float:
    return float(np.abs(target - prob).mean())


def r2(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean over the columns."""
    return float(scikit_learn().r2_score(target, prob))


def pearson(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean over the columns."""
    pairs = zip(target.T, prob.T, strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


NAMED = (accuracy, balanced_accuracy, log_loss, balanced_log_loss, auc, average_precision, mcc)
NAMED += (quadratic_kappa, rmse, mae, r2, pearson)
OURS: dict[str, Score] = {function.__name__: function for function in NAMED}
NUMBERED: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "f#": partial(f_score, average="binary"),
    "macro_f#": partial(f_score, average="macro"),
    "micro_f#": partial(f_score, average="micro"),
    "samples_f#": partial(f_score, average="samples"),
    "map_at_#": map_at,
    "top_#": top,
}


class Known(ChainMap[str, Score]):
    """By name, and those of NUMBERED by any number: f0.5, map_at_10."""

    def __missing__(self, name: str) -> Score:
        stem, number = parts_of(name)
        score = NUMBERED[stem]
        value = float(number) if "." in number else int(number)
        return lambda target, prob: score(target, prob, value)


METRICS = Known(OURS, plugins.METRICS)
LOWER_IS_BETTER = plugins.LOWER_IS_BETTER
LOWER_IS_BETTER |= {"log_loss", "balanced_log_loss", "rmse", "mae"}


def sign_of(metric: str) -> int:
    """By which a score becomes one of which more is better."""
    return -1 if metric in LOWER_IS_BETTER else 1

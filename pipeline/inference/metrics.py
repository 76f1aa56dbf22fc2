"""Competition metrics over probabilities, from scikit-learn."""

from collections.abc import Callable

import numpy as np
from sklearn import metrics

Score = Callable[[np.ndarray, np.ndarray], float]


def accuracy(target: np.ndarray, prob: np.ndarray) -> float:
    return float(metrics.accuracy_score(target, prob.argmax(1)))


def log_loss(target: np.ndarray, prob: np.ndarray) -> float:
    prob = prob.astype(np.float64)
    prob /= prob.sum(1, keepdims=True)
    return float(metrics.log_loss(target, prob, labels=np.arange(prob.shape[1])))


def macro_f1(target: np.ndarray, prob: np.ndarray) -> float:
    return float(metrics.f1_score(target, prob.argmax(1), average="macro"))


def auc(target: np.ndarray, prob: np.ndarray) -> float:
    """Mean area under the ROC curve of each class against the rest, where both are present."""
    present = [c for c in range(prob.shape[1]) if 0 < (target == c).sum() < len(target)]
    areas = [metrics.roc_auc_score(target == c, prob[:, c]) for c in present]
    return float(np.mean(areas)) if areas else float("nan")


def quadratic_kappa(target: np.ndarray, prob: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights; classes are ordered as `class_order` says."""
    labels = np.arange(prob.shape[1])
    return float(
        metrics.cohen_kappa_score(target, prob.argmax(1), labels=labels, weights="quadratic")
    )


METRICS: dict[str, Score] = {
    "accuracy": accuracy,
    "log_loss": log_loss,
    "macro_f1": macro_f1,
    "auc": auc,
    "quadratic_kappa": quadratic_kappa,
}
LOWER_IS_BETTER = {"log_loss"}

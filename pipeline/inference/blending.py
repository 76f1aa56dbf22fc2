"""The mean of several runs' answers: of probabilities, of logits or of ranks."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np

TINY = 1e-7  # float32 knows no probability between 1 less this and 1


class Mean(StrEnum):
    PROBABILITIES = "probabilities"
    LOGITS = "logits"  # a geometric mean: one run that excludes a class weighs heavily
    RANKS = "ranks"  # of a class's probability among all pictures, for ROC AUC


def blended(
    answers: Sequence[np.ndarray],
    weights: Sequence[float],
    mean: str = Mean.PROBABILITIES,
    labels: bool = False,
) -> np.ndarray:
    """Probabilities float32 [n, classes] of runs that each give the same, weighted.

    Rows sum to 1, by which ranks of more than two classes are divided; those of `labels`, of which
    a picture has any number, do not.
    """
    return averaged(terms_of(answers, mean, labels), weights, mean, labels)


def terms_of(answers: Sequence[np.ndarray], mean: str, labels: bool = False) -> list[np.ndarray]:
    """What of each run's answers is averaged."""
    if mean == Mean.LOGITS:
        probs = [np.clip(prob.astype(float), TINY, 1 - TINY * labels) for prob in answers]
        return [np.log(p) - (np.log(1 - p) if labels else 0) for p in probs]
    return [_ranks(prob) for prob in answers] if mean == Mean.RANKS else list(answers)


def averaged(
    terms: Sequence[np.ndarray], weights: Sequence[float], mean: str, labels: bool = False
) -> np.ndarray:
    """`blended` of terms that are known."""
    found = np.average(terms, axis=0, weights=weights)
    if mean == Mean.LOGITS:
        found = 1 / (1 + np.exp(-found)) if labels else np.exp(found - found.max(1, keepdims=True))
    if mean != Mean.PROBABILITIES and not labels:
        found /= found.sum(1, keepdims=True)
    return found.astype(np.float32)


def _ranks(prob: np.ndarray) -> np.ndarray:
    """Between 0 and 1; those of two classes sum to 1."""
    from scipy.stats import rankdata  # late: a second

    return rankdata(prob, axis=0) / (len(prob) + 1)


def blended_runs(
    runs: Iterable[Sequence[np.ndarray]],
    weights: Sequence[float],
    mean: str = Mean.PROBABILITIES,
    labels: bool = False,
) -> np.ndarray:
    """The same of runs of several folds, of which the mean counts."""
    return blended([np.mean(folds, axis=0) for folds in runs], weights, mean, labels)

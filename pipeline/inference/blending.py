"""The mean of several runs' answers: of probabilities, of logits or of ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

TINY = 1e-7  # float32 knows no probability between 1 less this and 1


class Mean(StrEnum):
    PROBABILITIES = "probabilities"
    LOGITS = "logits"  # a geometric mean: one run that excludes a class weighs heavily
    RANKS = "ranks"  # of a class's probability among all pictures, for ROC AUC


@dataclass(frozen=True)
class Blend:
    """Probabilities float32 [n, classes] of runs that each give the same, weighted.

    Rows sum to 1, by which ranks of more than two classes are divided; those of `labels`, of which
    a picture has any number, do not.
    """

    mean: Mean = Mean.PROBABILITIES
    labels: bool = False

    def __call__(self, answers: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        return self.averaged(self.terms(answers), weights)

    def terms(self, answers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What of each run's answers is averaged."""
        if self.mean == Mean.LOGITS:
            probs = [np.clip(prob.astype(float), TINY, 1 - TINY * self.labels) for prob in answers]
            return [np.log(p) - (np.log(1 - p) if self.labels else 0) for p in probs]
        return [_ranks(prob) for prob in answers] if self.mean == Mean.RANKS else list(answers)

    def averaged(self, terms: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        """The blend of terms that are known."""
        found = np.average(terms, axis=0, weights=weights)
        if self.mean == Mean.LOGITS and self.labels:
            found = 1 / (1 + np.exp(-found))
        elif self.mean == Mean.LOGITS:
            found = np.exp(found - found.max(1, keepdims=True))
        if self.mean != Mean.PROBABILITIES and not self.labels:
            found /= found.sum(1, keepdims=True)
        return found.astype(np.float32)

    def of_folds(
        self, runs: Iterable[Sequence[np.ndarray]], weights: Sequence[float]
    ) -> np.ndarray:
        """The blend of runs of several folds, of which the mean counts."""
        return self([np.mean(folds, axis=0) for folds in runs], weights)


def _ranks(prob: np.ndarray) -> np.ndarray:
    """Between 0 and 1; those of two classes sum to 1."""
    from scipy.stats import rankdata  # late: a second

    return rankdata(prob, axis=0) / (len(prob) + 1)

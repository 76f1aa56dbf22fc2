"""Do probabilities mean what they say, and how sure is a score?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 15
ROUNDS, SLOW_ROUNDS = 1000, 100  # of the bootstrap; slow ones are of what is no mean over rows


@dataclass(frozen=True)
class Reliability:
    """Per bin of confidence: number of pictures, mean confidence, share that is right."""

    n: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap of confidence and accuracy over all pictures.

        Guo et al. 2017, On Calibration of Modern Neural Networks.
        """
        return float(np.sum(self.n * np.abs(self.confidence - self.accuracy)) / self.n.sum())

    @property
    def overconfident(self) -> float:
        """Mean confidence minus accuracy: above 0 the probabilities promise too much."""
        return float(np.sum(self.n * (self.confidence - self.accuracy)) / self.n.sum())


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """`confidence` [n] in 0..1 of the answers, `right` bool [n]; empty bins are left out."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(which, minlength=bins)
    full = n > 0
    means = [np.bincount(which, values, bins)[full] / n[full] for values in (confidence, right)]
    return Reliability(n[full], *means)


def interval(
    metric: str, target: np.ndarray, prob: np.ndarray, group: np.ndarray
) -> tuple[float, float]:
    """95 % of a metric's values when the pictures are drawn again: a bootstrap over `group` [n].

    Twins come or stay away together, so that they do not count as independent.
    """
    if metric == "accuracy":
        values = (prob.argmax(1) == target).astype(float)
    elif metric == "log_loss":
        values = -np.log(np.maximum(prob[np.arange(len(target)), target], 1e-15))
    else:
        from pipeline.inference.metrics import METRICS  # late: scikit-learn

        def score(rows: np.ndarray) -> float:
            return METRICS[metric](target[rows], prob[rows])

        return bootstrap(score, group, SLOW_ROUNDS)
    return bootstrap(lambda rows: float(values[rows].mean()), group, ROUNDS)


def bootstrap(
    score: Callable[[np.ndarray], float], group: np.ndarray, rounds: int
) -> tuple[float, float]:
    """The middle 95 % of `score(rows)` over draws of whole groups with replacement."""
    _, code = np.unique(group, return_inverse=True)
    n, every, draw = code.max() + 1, np.arange(len(code)), np.random.default_rng(0)
    found = []
    for _ in range(rounds):
        times = np.bincount(draw.integers(0, n, n), minlength=n)
        found.append(score(np.repeat(every, times[code])))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)

"""Do probabilities mean what they say?"""

from dataclasses import dataclass

import numpy as np

BINS = 15


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

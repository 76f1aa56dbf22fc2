"""Do probabilities mean what they say, and how sure is a score?"""

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.paired import DRAWS, MEANS, drawn_scores, resamples

BINS = 15
MOST_NUMBERS = 10_000_000  # that all draws read: a page is written in seconds


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

    Twins come or stay away together, so that they do not count as independent. Of a metric that is
    no mean over rows a few draws give the deviation.
    """
    if metric in MEANS:
        draws = int(np.clip(MOST_NUMBERS / len(prob), 200, DRAWS))
        found = drawn_scores(target, [prob], metric, resamples(group, draws))
        return tuple(map(float, np.percentile(found, [2.5, 97.5])))
    draws = int(np.clip(MOST_NUMBERS / prob.size, 20, 50))
    found = drawn_scores(target, [prob], metric, resamples(group, draws))
    centre, spread = np.nanmean(found), 1.96 * np.nanstd(found, ddof=1)
    return float(centre - spread), float(centre + spread)

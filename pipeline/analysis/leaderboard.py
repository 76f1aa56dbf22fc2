"""What the leaderboard says beyond the held-out pictures, and which two submissions to keep.

All scores here are signed so that more is better. What is not known of a submission is how it
would fare on other pictures: the covariance of the runs' scores under resampling says how much.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.analysis.paired import bootstrap
from pipeline.inference.metrics import METRICS, sign_of

LEAST = 5  # submissions with a score, for an offset
LUCK = 3  # robust deviations from the offset
RESOLUTION = 5e-4  # of scores that are shown with three or four digits


class Offset(NamedTuple):
    """Public score minus CV: its median, that one's standard error, and each submission's luck."""

    offset: float
    error: float
    luck: np.ndarray  # float [n], in robust deviations of one submission


def fit_offset(cv: np.ndarray, public: np.ndarray) -> Offset | None:
    """Median and median deviation: one lucky submission moves neither. None of fewer than LEAST."""
    if len(cv) < LEAST:
        return None
    away = public - cv
    offset = float(np.median(away))
    spread = max(1.4826 * float(np.median(np.abs(away - offset))), RESOLUTION)
    return Offset(offset, 1.2533 * spread / len(cv) ** 0.5, (away - offset) / spread)


class Belief(NamedTuple):
    """What `rows` pictures say of k runs: scores [k] and their sampling covariance [k, k]."""

    score: np.ndarray
    covariance: np.ndarray
    rows: int

    def updated(self, public: np.ndarray, rows: int) -> "Belief":
        """After scores on `rows` other pictures (less the offset; nan: none): by the rows' number.

        The covariance shrinks where all runs were seen.
        """
        seen = ~np.isnan(public)
        weight = rows / (rows + self.rows)
        score = np.where(seen, self.score + weight * (public - self.score), self.score)
        shrink = 1 - weight if seen.all() else 1.0
        return Belief(score, shrink * self.covariance, self.rows + rows * bool(seen.all()))

    def on_other(self, rows: int) -> np.ndarray:
        """Covariance [k, k] of the scores on `rows` pictures yet to be seen."""
        return self.covariance * (1 + self.rows / rows)


def believe(runs: list[Evidence]) -> Belief:
    """From the held-out pictures, which all runs must have in common."""
    one, metric, probs = runs[0], runs[0].record["metric"], [run.prob for run in runs]
    score = np.array([METRICS[metric](one.target, prob) for prob in probs])
    draws = bootstrap(one.target, probs, metric, one.table.group)
    return Belief(sign_of(metric) * score, np.cov(draws.T), len(one.target))


def chance_to_lead(belief: Belief, first: int, second: int, rows: int) -> float:
    """That `first` is ahead of `second` on `rows` other pictures."""
    from scipy.stats import norm  # late: a second

    lead = belief.score[first] - belief.score[second]
    return float(norm.cdf(lead / spread_between(belief.on_other(rows), first, second)))


def spread_between(covariance: np.ndarray, i: np.ndarray | int, j: np.ndarray | int) -> np.ndarray:
    """Standard deviation of the difference of two scores; at least a hair."""
    variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
    return np.sqrt(np.maximum(variance, 1e-12))


def pick_two(belief: Belief, rows: int) -> tuple[int, int]:
    """The two runs whose better one is expected to score most on `rows` other pictures.

    Kaggle counts the better of two: a second one that errs elsewhere is worth more than a twin of
    the first. The expected maximum of two normal scores is Clark's (1961).
    """
    from scipy.stats import norm  # late: a second

    score, covariance = belief.score, belief.on_other(rows)
    i, j = np.triu_indices(len(score), 1)
    spread = spread_between(covariance, i, j)
    alpha = (score[i] - score[j]) / spread
    best = score[i] * norm.cdf(alpha) + score[j] * norm.cdf(-alpha) + spread * norm.pdf(alpha)
    at = int(best.argmax())
    first, second = int(i[at]), int(j[at])
    return (first, second) if score[first] >= score[second] else (second, first)


def judge_picks(values: np.ndarray, groups: Iterable[object], splits: int = 1000) -> np.ndarray:
    """What `pick_two` gains over the two best, float [splits].

    `values` [n, k] are what each held-out row gives to each run's score. In a split both choose
    two runs by a random half of the `groups` [n]; the better of the two scores on the other half.
    """
    random, group = np.random.default_rng(0), pd.factorize(np.asarray(groups))[0]
    count, gains = group.max() + 1, np.empty(splits)
    for n in range(splits):
        half = (random.permutation(count) < count // 2)[group]
        seen, hidden = values[half], values[~half].mean(0)
        belief = Belief(seen.mean(0), np.cov(seen.T) / len(seen), len(seen))
        best = np.argsort(-belief.score, kind="stable")[:2]
        gains[n] = hidden[list(pick_two(belief, int((~half).sum())))].max() - hidden[best].max()
    return gains

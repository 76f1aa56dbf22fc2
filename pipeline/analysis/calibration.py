"""How sure is a score?"""

import numpy as np

from pipeline.analysis.paired import DRAWS, MEANS, drawn_scores, resamples

MOST_NUMBERS = 10_000_000  # that all draws read: a page is written in seconds


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

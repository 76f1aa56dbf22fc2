"""How sure is a score? Is one run better than another, or luckier, on the same pictures?"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.base.cli import UserError
from pipeline.inference.metrics import METRICS, TINY, decided

MEANS = ("accuracy", "log_loss")  # over rows
DRAWS = 1000
FEW_DRAWS = 200  # of a metric that is no mean over rows, which takes its time
LEAST_DRAWS = 20  # on which a metric is defined, for an interval
MOST_NUMBERS = 10_000_000  # that all draws of an interval read: a page is written in seconds


class Paired(NamedTuple):
    """The second run against the first. `low` to `high` is the 95 % interval of `delta`."""

    won: int  # pictures of which the second is nearer to the truth: of one class, alone right
    lost: int
    p: float  # that as unequal a split of these comes about by chance: McNemar's test, exact
    needed: int | None  # the lead that it takes for p < .05; None: too few differ for any
    delta: float  # of the metric
    low: float
    high: float


def paired(a: Evidence, b: Evidence) -> Paired:
    """Both on the rows that they have in common, resampled together (paired bootstrap)."""
    from scipy.stats import binomtest  # late: a second, as scikit-learn

    won, lost = int((b.errors < a.errors).sum()), int((b.errors > a.errors).sum())
    p = binomtest(won, won + lost).pvalue if won + lost else 1.0
    metric = a.record["metric"]
    draws = bootstrap(a.target, [a.prob, b.prob], metric, a.table.group)
    low, high = middle(draws[:, 1] - draws[:, 0])
    delta = METRICS[metric](b.target, b.prob) - METRICS[metric](a.target, a.prob)
    return Paired(won, lost, float(p), needed_lead(won + lost), float(delta), low, high)


def counts_lead(one: Evidence) -> bool:
    """Whether its metric counts nothing but pictures that are right, each for itself."""
    return one.kind == "shares" and one.record["metric"] == "accuracy" and not one.rules.group


def is_luck(found: Paired, by_lead: bool) -> bool:
    """Whether chance may have made the difference: by the lead, where the metric counts one, or by
    the metric's interval."""
    if by_lead:
        return found.needed is None or abs(found.won - found.lost) < found.needed
    return found.low <= 0 <= found.high


def interval(
    metric: str, target: np.ndarray, prob: np.ndarray, group: np.ndarray
) -> tuple[float, float]:
    """95 % of a metric's values when the pictures are drawn again: a bootstrap over `group` [n].

    Twins come or stay away together, so that they do not count as independent. Of a metric that is
    no mean over rows a few draws give the deviation: their own mean is off, as where a rare class
    is in few of them.
    """
    if metric in MEANS:
        draws = int(np.clip(MOST_NUMBERS / len(prob), 200, DRAWS))
        return middle(drawn_scores(target, [prob], metric, resamples(group, draws))[:, 0])
    draws = int(np.clip(MOST_NUMBERS / prob.size, 20, 50))
    found = drawn_scores(target, [prob], metric, resamples(group, draws))
    centre, spread = METRICS[metric](target, prob), 1.96 * float(np.nanstd(found, ddof=1))
    return centre - spread, centre + spread


def needed_lead(n: int) -> int | None:
    """The least won - lost among `n` pictures that chance gives in less than one of 20 cases."""
    from scipy.stats import binom  # late: a second

    lost = np.arange(n // 2 + 1)
    rare = lost[2 * binom.cdf(lost, n, 0.5) < 0.05]
    return n - 2 * int(rare.max()) if len(rare) else None


def resamples(groups: Iterable[str], draws: int = DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each row is drawn, int [n], `draws` times: rows with replacement, about n.

    Whole groups are drawn: a twin tells nothing new.
    """
    group = pd.factorize(np.asarray(groups))[0]
    n, random = group.max() + 1, np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(random.integers(n, size=n), minlength=n)[group]


def drawn_scores(
    target: np.ndarray, probs: list[np.ndarray], metric: str, counts: Iterable[np.ndarray]
) -> np.ndarray:
    """The metric of each run on each draw, float [draws, runs]; a draw says how often a row is in.

    Of a metric that is a mean over rows a draw is a product. One of the user's own may refuse a
    draw that lacks a class: nan; raises its ValueError where it refuses them all.
    """
    if metric in MEANS:
        values = np.stack([per_row(target, prob, metric) for prob in probs], 1)
        return np.stack([count @ values / count.sum() for count in counts])
    found, refused = [], None
    for _, count in zip(range(FEW_DRAWS), counts, strict=False):
        rows = np.repeat(np.arange(len(target)), count)
        try:
            found.append([METRICS[metric](target[rows], prob[rows]) for prob in probs])
        except ValueError as error:
            refused = error
            found.append([np.nan] * len(probs))
    if refused and np.isnan(found).all():
        raise refused
    return np.array(found)


def bootstrap(
    target: np.ndarray, probs: list[np.ndarray], metric: str, group: Iterable[str]
) -> np.ndarray:
    """The metric of each run on each draw of groups, float [draws, runs]; without draws on which
    one has no score: AUC has none without a positive."""
    draws = drawn_scores(target, probs, metric, resamples(group))
    return draws[np.isfinite(draws).all(1)]


def middle(values: np.ndarray) -> tuple[float, float]:
    """Between what 95 % of the draws' values [n] lie; of too few nothing is known."""
    if len(values) < LEAST_DRAWS:
        return -np.inf, np.inf
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def per_row(target: np.ndarray, prob: np.ndarray, metric: str) -> np.ndarray:
    """float [n], whose mean is the accuracy or the log loss."""
    if metric == "accuracy":
        right = decided(target, prob) == target
        return (right if target.ndim == 1 else right.all(1)).astype(float)
    if target.ndim == 2:
        prob = prob.astype(float).clip(TINY, 1 - TINY)
        return -np.log(np.where(target, prob, 1 - prob)).mean(1)
    own = prob[np.arange(len(target)), target].astype(float) / prob.sum(1, dtype=float)
    return -np.log(np.maximum(own, np.finfo(float).eps))


def changed_sides(a: Evidence, b: Evidence) -> pd.DataFrame:
    """The pictures of which one run is nearer to the truth, the clearest first; the index is that
    of `table`.

    Columns: image, label, side (won or lost by `b`), the answers a and b, and `of_a` and `of_b`:
    the probability of the label, else the errors.
    """
    at = np.arange(len(a.target))
    of_a, of_b = (
        one.prob[at, one.target] if one.kind == "shares" else one.errors for one in (a, b)
    )
    found = pd.DataFrame(
        {
            "image": a.table.image,
            "label": a.told(a.target),
            "side": np.where(b.errors < a.errors, "won", "lost"),
            "a": a.told(a.answer),
            "b": b.told(b.answer),
            "of_a": of_a,
            "of_b": of_b,
        }
    )[a.errors != b.errors]
    order = (found.of_a - found.of_b).abs().sort_values(ascending=False, kind="stable").index
    return found.loc[order]


def scored_on(blend: dict[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    """Which pictures a blend (its record) was scored on: competition, split, folds if few."""
    key = blend["key"]
    return key["competition"], key["folds"], tuple(key.get("only", ()))


def refuse_foreign(blends: dict[str, dict[str, Any]]) -> None:
    """Raises UserError unless all blends (name: record) are scored alike on the same pictures."""
    (first, like), *others = blends.items()
    for name, record in others:
        if (theirs := record["key"]["competition"]) != (ours := like["key"]["competition"]):
            text = f"{name} belongs to {theirs}, {first} to {ours}"
            raise UserError(f"{text}: they have no pictures in common")
        if scored_on(record) != scored_on(like):
            text = f"{name} was trained on other folds than {first}"
            raise UserError(f"{text}: their held-out pictures are not the same")
        if (theirs := record["metric"]) != (ours := like["metric"]):
            text = f"{name} was scored by {theirs}, {first} by {ours}"
            raise UserError(f"{text}: python -m pipeline.ensemble scores the older one anew")

"""Decisions that a metric wants: thresholds of labels, cuts between levels, scales of classes, and
how sure probabilities are.

They are fitted on out-of-fold predictions, and judged nested: those of each fold on the other
folds alone. They are taken only where the nested gain is real, that is, where 95 % of bootstrap
draws agree on it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from pipeline.base.forms import Kind
from pipeline.inference.metrics import METRICS, Score, sign_of

GRID = np.linspace(0.05, 0.95, 19)
SCALES = np.geomspace(1 / 8, 8, 13)
POWERS = np.geomspace(1, 4, 15)
STEPS = 21  # places of a cut between its neighbours
ROUNDS = 2  # over all numbers, each in turn
# numbers that all metrics of a fit may read, 1e8 in a second: minutes, and it is fitted for each
# fold. Of 1,103 labels x 109,000 pictures one by one it would take half a day
MOST = 5e10
DECIDED = {"f#", "macro_f#", "micro_f#", "samples_f#", "accuracy"}  # `stem_of` names
DECIDED |= {"balanced_accuracy", "mcc", "quadratic_kappa"}
SCALED = {"macro_f#", "balanced_accuracy", "mcc"}  # of many classes: rare ones count alike
SHARPENED = {"log_loss", "balanced_log_loss"}


@dataclass(frozen=True)
class Decision:
    """`numbers` are a threshold per label, that of the second class, cuts between levels, what the
    shares of each class are multiplied by, or the power of shares or of odds that sharpens them."""

    kind: Kind | Literal["scales", "power of shares", "power of odds"]
    numbers: list[float]
    first: int = 0  # the lowest level
    some: bool = False  # labels: the likeliest where none is over its threshold

    def __call__(self, prob: np.ndarray) -> np.ndarray:
        """Predictions [n, classes] as decided: a metric then gives the score of the answers."""
        if self.sharpens:
            return self._sharper(prob) if self.numbers != [1.0] else prob
        if self.kind == "scales":
            scaled = prob * np.array(self.numbers)
            return scaled / scaled.sum(1, keepdims=True)
        if self.kind == "numbers":
            return self.first + np.digitize(prob, np.sort(self.numbers)).astype(float)
        if self.kind == "shares":
            second = prob[:, 1] >= self.numbers[0]
            return np.stack([~second, second], 1).astype(float)
        over = prob >= np.array(self.numbers)
        if self.some:
            over[np.arange(len(prob)), prob.argmax(1)] |= ~over.any(1)
        return over.astype(float)

    @property
    def sharpens(self) -> bool:
        """Whether it changes how sure an answer is, and none of the answers."""
        return self.kind in ("power of shares", "power of odds")

    def _sharper(self, prob: np.ndarray) -> np.ndarray:
        raised = prob.astype(float) ** self.numbers[0]
        if self.kind == "power of shares":
            return raised / raised.sum(1, keepdims=True)
        return raised / (raised + (1 - prob.astype(float)) ** self.numbers[0])

    def margin(self, prob: np.ndarray) -> np.ndarray:
        """How far each row [n] is from another answer."""
        if self.kind in ("scales", "power of shares"):
            return np.diff(np.sort(self(prob))[:, -2:])[:, 0]
        if self.kind == "power of odds":
            return np.abs(prob - 0.5).min(1)
        seen = prob[:, 1:] if self.kind == "shares" else prob
        numbers = np.array(self.numbers)
        if self.kind == "chances":
            return np.abs(seen - numbers).min(1)
        return np.abs(seen - numbers[None]).min(1) if len(numbers) else np.full(len(prob), np.inf)

    def with_number(self, i: int, value: float) -> Self:
        return replace(self, numbers=[*self.numbers[:i], float(value), *self.numbers[i + 1 :]])

    def candidates(self, i: int) -> np.ndarray:
        if self.sharpens:
            return POWERS
        if self.kind != "numbers":
            return SCALES if self.kind == "scales" else GRID
        low, *_ = self.numbers[i - 1 : i] or [self.numbers[i] - 1]
        high, *_ = self.numbers[i + 1 : i + 2] or [self.numbers[i] + 1]
        return np.linspace(low, high, STEPS)

    @property
    def fact(self) -> dict[str, Any]:
        """For a record; what came later only where it is set."""
        return {name: value for name, value in asdict(self).items() if value or name != "some"}


def usual(target: np.ndarray, prob: np.ndarray, kind: Kind, some: bool = False) -> Decision:
    """Thresholds of .5 (`some`: one label at least), cuts halfway, all classes alike."""
    if kind == "numbers":
        low, high = int(target.min()), int(target.max())
        return Decision(kind, [level + 0.5 for level in range(low, high)], low)
    if kind == "chances":
        return Decision(kind, [0.5] * prob.shape[1], some=some)
    if prob.shape[1] == 2:
        return Decision(kind, [0.5])
    return Decision("scales", [1.0] * prob.shape[1])


def as_sure(kind: Kind) -> Decision:
    """Probabilities as they are.

    From here a power may sharpen them, but blunt none. Out of fold one model answers, of a test
    picture the mean of all: that is never surer than they, and more often right. So what is not
    sure enough here is less so there, and what is too sure here may be right there (leaves-small, a
    fifth as the test: powers of 1.3 by the others, .645 → .562 there; the best were 1.3 to 1.7).
    """
    return Decision("power of odds" if kind == "chances" else "power of shares", [1.0])


def fit(start: Decision, target: np.ndarray, prob: np.ndarray, score: Score) -> Decision:
    """The best on these rows, one number at a time; of equals the one that stood before.

    Where that is over MOST, labels have one threshold for all, and scales stay as they are.
    """
    best, value = start, score(target, start(prob))

    def try_all(others: Iterable[Decision]) -> None:
        nonlocal best, value
        for other in others:
            if (found := score(target, other(prob))) > value:
                best, value = other, found

    n = len(start.numbers)
    if start.kind == "chances":  # one threshold for all, to begin with
        try_all(replace(start, numbers=[float(one)] * n) for one in GRID)
    if n > 1 and prob.size * n * len(start.candidates(0)) * ROUNDS > MOST:
        return best
    for _ in range(ROUNDS):
        before = value
        for i in range(n):
            try_all([best.with_number(i, one) for one in best.candidates(i)])
        if value == before:
            break
    return best


@dataclass(frozen=True)
class Verdict:
    """A decision fitted on all rows, and what it is worth: scores and the gain's 95 % interval."""

    decision: Decision
    usual: float
    nested: float
    low: float
    high: float
    taken: bool

    @property
    def facts(self) -> dict[str, Any]:
        """For a record: `decision` is what answers are made by."""
        found = {"usual": self.usual, "nested": self.nested, "low": self.low, "high": self.high}
        found = {name: round(value, 5) for name, value in found.items()}
        return {"decision": self.decision.fact, "decided": {"taken": self.taken, **found}}


def judge(
    start: Decision,
    target: np.ndarray,
    prob: np.ndarray,
    fold: np.ndarray,
    metric: str,
    draws: Iterable[np.ndarray],
) -> Verdict:
    """Fit a decision on out-of-fold rows and compare it, nested, with `start`.

    `fold` is int [n]; a draw holds the numbers of rows, drawn with replacement.
    """
    measure, sign = METRICS[metric], sign_of(metric)
    nested, plain = np.empty_like(start(prob)), start(prob)

    def score(target: np.ndarray, prob: np.ndarray) -> float:
        return sign * measure(target, prob)

    for k in np.unique(fold):
        own = fold == k
        nested[own] = fit(start, target[~own], prob[~own], score)(prob[own])
    gains = [score(target[rows], nested[rows]) - score(target[rows], plain[rows]) for rows in draws]
    worst, best = np.percentile(gains, [2.5, 97.5])
    taken = bool(worst > 0)
    decision = fit(start, target, prob, score) if taken else start
    low, high = sorted([float(sign * worst), float(sign * best)])
    return Verdict(decision, measure(target, plain), measure(target, nested), low, high, taken)

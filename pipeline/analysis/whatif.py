"""What would dropping, relabelling or adding pictures do? Answered in seconds, without training.

The closed-form head (training/discriminant.py) follows from sums over pictures. What a change takes
away is subtracted from the sums of each fold and what it brings is added, then the head is solved
again: exactly the head of the changed pictures. How well this tells what fine-tuning would gain,
and where it does not, is measured in docs/labels.md.
"""

from collections.abc import Collection, Mapping
from functools import reduce
from operator import add as plus
from typing import Self

import numpy as np
import torch

from pipeline.analysis.evidence import Evidence
from pipeline.analysis.neighbours import load_features
from pipeline.analysis.paired import middle, resamples
from pipeline.base.cli import UserError
from pipeline.training.discriminant import ClassMoments, lda

# leaves-small, out of fold: 512 give .769, 1024 .789, 2048 .790 in seven times the time, all 3616
# in two views .798
WIDTH = 1024


class WhatIf:
    """The closed-form heads of all folds, and the sums that they follow from.

    `features` [n, d] are of training pictures (d at most 2048: a head takes d**3 / 3
    multiplications), `target` int [n] and `fold` int [n] theirs; `others` [m, d] are those of
    pictures that may be added. Those of one `group` [n] come and go together in the interval.
    Raises UserError where one fold is all there is.
    """

    def __init__(
        self,
        features: np.ndarray,
        target: np.ndarray,
        fold: np.ndarray,
        classes: int,
        others: np.ndarray | None = None,
        group: np.ndarray | None = None,
    ):
        if len(np.unique(fold)) < 2:
            raise UserError("of a single fold no other pictures are left to learn from")
        others = features[:0] if others is None else others
        given = (torch.from_numpy(one).double() for one in (features, others))
        self.features, self.others = (one[:, None] for one in given)  # of one view each
        self.target, self.fold, self.classes = np.array(target), fold, classes
        self.group = np.arange(len(target)) if group is None else group
        self.shrinkage = lda(self.features, self.target, classes).shrinkage
        parts = [self.sums(np.flatnonzero(fold == k)) for k in range(fold.max() + 1)]
        self.total = reduce(plus, parts)
        self.learnt = [self.total - part for part in parts]  # by each fold's head
        self.right = self.answers(self.learnt) == target

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """With the test pictures as those that may be added."""
        train, test = load_features(evidence, WIDTH)
        fold, group = (evidence.table[name].to_numpy() for name in ("fold", "group"))
        return cls(train, evidence.target, fold, len(evidence.classes), test, group)

    def effect(
        self,
        drop: Collection[int] = (),
        relabel: Mapping[int, int] | None = None,
        add: Mapping[int, int] | None = None,
    ) -> dict[str, float]:
        """Change of the out-of-fold accuracy on the rows that are not touched.

        `drop` are rows, `relabel` rows and their new classes, `add` rows of the other pictures and
        their classes. Returns before, after, delta, the 95 % interval low to high of delta
        (bootstrap over whole groups, paired), and how many were won and lost.
        """
        relabel, add = dict(relabel or {}), dict(add or {})
        gone = np.array(sorted({*drop, *relabel}), dtype=int)
        moved = {row: label for row, label in relabel.items() if row not in set(drop)}
        changed = [self.changed(k, gone, moved, add) for k in range(len(self.learnt))]
        kept = np.ones(len(self.target), dtype=bool)
        kept[gone] = False
        before, after = self.right[kept], (self.answers(changed) == self.target)[kept]
        return paired(before, after, self.group[kept])

    def likely(self, label: int, count: int) -> dict[int, int]:
        """At most `count` other pictures that the head takes for a class, the surest first.

        As `add` they ask what more pictures of the class would do: guesses, until somebody looks.
        """
        weight, bias = self.total.solve(self.shrinkage)
        logits = self.others[:, 0] @ weight.T + bias
        rivals = logits.clone()
        rivals[:, label] = -torch.inf
        lead = (logits[:, label] - rivals.amax(1)).numpy()
        rows = np.argsort(-lead, kind="stable")[: min(count, int((lead > 0).sum()))]
        return dict.fromkeys(rows.tolist(), label)

    def changed(
        self, k: int, gone: np.ndarray, moved: Mapping[int, int], add: Mapping[int, int]
    ) -> ClassMoments:
        """What fold `k`'s head learns from after a change."""
        seen = {row: label for row, label in moved.items() if self.fold[row] != k}
        return (
            self.learnt[k]
            - self.sums(gone[self.fold[gone] != k])
            + moments(self.features, seen, self.classes)
            + moments(self.others, add, self.classes)
        )

    def sums(self, rows: np.ndarray) -> ClassMoments:
        return ClassMoments.of(self.features, self.target, self.classes, rows)

    def answers(self, sums: list[ClassMoments]) -> np.ndarray:
        """int [n], of each picture by the head of its fold."""
        answers = np.empty(len(self.target), dtype=int)
        for k, one in enumerate(sums):
            held_out = np.flatnonzero(self.fold == k)
            weight, bias = one.solve(self.shrinkage)
            logits = self.features[held_out, 0] @ weight.T + bias
            logits[:, one.count == 0] = -torch.inf  # a class that has lost all its pictures
            answers[held_out] = logits.argmax(1).numpy()
        return answers


def moments(features: torch.Tensor, labels: Mapping[int, int], classes: int) -> ClassMoments:
    """Of some rows under labels that are not their own."""
    rows = np.fromiter(labels, dtype=int, count=len(labels))
    given = np.fromiter(labels.values(), dtype=int, count=len(labels))
    return ClassMoments.of(features[rows], given, classes, np.arange(len(rows)))


def paired(before: np.ndarray, after: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Two answers to the same pictures, bool [n] each: the difference and its interval.

    Whole groups are drawn: a twin tells nothing new.
    """
    n, won, lost = len(before), int((after & ~before).sum()), int((before & ~after).sum())
    gain = after.astype(float) - before
    low, high = middle(np.array([count @ gain / count.sum() for count in resamples(group)]))
    rates = {"before": float(before.mean()), "after": float(after.mean()), "low": low, "high": high}
    return {**rates, "delta": (won - lost) / n, "won": won, "lost": lost}

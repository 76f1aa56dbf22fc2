"""Which labels of several, and which numbers, are probably wrong: `suspects` of other tasks.

The two views are those of `suspects`: out-of-fold predictions, and the labels of the pictures that
look alike to a backbone that has seen no label.
"""

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence

LOST = 0.1  # of a label's mean confidence: below that the model sees nothing of it
FAR, LOST_NUMBER = 1.25, 3.0  # deviations: a number is looked at, or called wrong, from here on
Near = tuple[np.ndarray, np.ndarray]


def label_suspects(evidence: Evidence, near: Near) -> pd.DataFrame:
    """A row for each label of a picture that is answered otherwise, the most suspect first.

    The index is that of `evidence.table`, several times where several labels of a picture are
    suspected; columns as of `suspects`. What counts is the label's self-confidence (Northcutt et
    al. 2021): the chance of a label that is given, else what it lacks to 1.
    """
    target, prob = evidence.target, evidence.prob.astype(float)
    own = np.where(target, prob, 1 - prob)
    votes = near_mean(target.astype(float), near)
    own_votes = np.where(target, votes, 1 - votes)
    lost = own <= LOST * np.where(target, *(confidence(own, side) for side in (target, ~target)))
    others = [evidence.answers(member) != target for member in evidence.members.values()]
    mixed = contradicted(evidence)
    kind = np.select(
        [mixed, own_votes > 0.5, lost & np.all(others, axis=0)],
        ["pair contradictory", "model wrong", "label wrong"],
        "really ambiguous",
    )
    at, column = np.nonzero(mixed | (evidence.answer != target))
    flipped = target[at]
    flipped[np.arange(len(at)), column] ^= True
    there = target[at, column]
    parts = zip(column, prob[at, column], there, votes[at, column], strict=True)
    found = pd.DataFrame(
        {
            "score": 1 - (own + own_votes)[at, column] / 2,
            "kind": kind[at, column],
            "suggested": evidence.told(flipped),
            "reason": [
                f"{evidence.classes[c]} is {'' if given else 'not '}labelled; "
                f"held out: {chance:.2f}; look-alikes: {share:.0%}"
                for c, chance, given, share in parts
            ],
        },
        index=at,
    )
    return found.sort_values("score", ascending=False, kind="stable")


def number_suspects(evidence: Evidence, near: Near, pairs: np.ndarray) -> pd.DataFrame:
    """Rows whose level is answered otherwise or whose number lies far off, the furthest first.

    The score is how far the prediction and the mean of the look-alikes lie off, the mean of both,
    in deviations of all such distances; of several columns that of the furthest. `pairs` [n] are
    twins with unequal labels.
    """
    target, prob, means = (
        evidence.target,
        evidence.prob.astype(float),
        near_mean(evidence.target, near),
    )
    off, other = (
        np.abs(x - target) / np.maximum((x - target).std(0), 1e-12) for x in (prob, means)
    )
    score = (off + other) / 2
    at, column = np.arange(len(target)), score.argmax(1)
    own, said, alike = (x[at, column] for x in (target, prob, means))
    far = score[at, column]
    others = np.stack([one[at, column] - own for one in evidence.members.values()])
    agreed = (np.sign(others) == np.sign(said - own)).all(0)
    kind = np.select(
        [
            pairs,
            np.abs(alike - own) < np.abs(alike - said),
            agreed & (off[at, column] > LOST_NUMBER),
        ],
        ["pair contradictory", "model wrong", "label wrong"],
        "really ambiguous",
    )
    names = [f"{name}: " if len(evidence.classes) > 1 else "" for name in evidence.classes]
    lines = zip(column, own, said, alike, strict=True)
    found = pd.DataFrame(
        {
            "score": far,
            "kind": kind,
            "suggested": evidence.told(evidence.answer),
            "reason": [
                f"{names[c]}held out {there:.4g}, label {mine:.4g}; look-alikes {mean:.4g}"
                for c, mine, there, mean in lines
            ],
        }
    )
    kept = pairs | (~evidence.right if evidence.decision else far > FAR)
    return found[kept].sort_values("score", ascending=False, kind="stable")


def near_mean(values: np.ndarray, near: Near) -> np.ndarray:
    """The mean of `values` [n, C] over each row's neighbours, by similarity: float [n, C]."""
    rows, similarity = near
    weight = np.maximum(similarity, 1e-12)
    weight = weight / weight.sum(1, keepdims=True)
    return sum(weight[:, i, None] * values[rows[:, i]] for i in range(rows.shape[1]))


def confidence(own: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Mean of `own` [n, C] on the rows of a `side` (bool [n, C]), [C]; 1 where there are none."""
    n = side.sum(0)
    return np.where(n, (own * side).sum(0) / np.maximum(n, 1), 1)


def contradicted(evidence: Evidence) -> np.ndarray:
    """bool [n, C]: a picture of the same pixels has the label where this one has not, or back."""
    pixels = evidence.prepared.rows.hash.to_numpy()[evidence.table.row]
    share = pd.DataFrame(evidence.target).groupby(pixels).transform("mean").to_numpy()
    return (share > 0) & (share < 1)

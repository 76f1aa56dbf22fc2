"""Which labels may be wrong: of one class a picture, of several labels, of numbers.

Confident learning (Northcutt et al., JAIR 2021) by out-of-fold probabilities, together with the
labels of the pictures that look alike to a backbone that has seen no label: a model that stumbles
is not yet a wrong label.
"""

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.inference.metrics import rows_of

LOST = 0.1  # of a label's mean confidence: below that the model sees nothing of it
FAR, LOST_NUMBER = 1.25, 3.0  # deviations: a number is looked at, or called wrong, from here on
Near = tuple[np.ndarray, np.ndarray]


def suspects(evidence: Evidence, near: Near) -> pd.DataFrame:
    """Rows of `evidence.table` whose answer is not their label, and contradictory twins.

    The most suspect first: score (0 to 1), kind, suggested (a label), reason. `near` is what
    `neighbours` gives of the training pictures themselves.

    A kind is "pair contradictory" where the same pixels have two labels, whatever the model says;
    "model wrong" where the look-alikes hold with the label; "label wrong" where they do not, every
    member says the other class, and the label's own probability is a tenth or less of what its
    class is given on average (the threshold of a class); else "really ambiguous".
    """
    by_kind = {"shares": class_suspects, "chances": label_suspects, "numbers": number_suspects}
    found = by_kind[evidence.kind](evidence, near)
    return found.sort_values("score", ascending=False, kind="stable")


def class_suspects(evidence: Evidence, near: Near) -> pd.DataFrame:
    """The score is the best other class's part of what speaks for one of the two; .5 is undecided.

    That class is the best by both views together.
    """
    prob, names, at = evidence.prob, evidence.classes, np.arange(len(evidence.prob))
    labelled = rows_of(evidence.target, prob)
    votes = near_mean(labelled.astype(float), near)
    best = np.where(labelled, -1, prob + votes).argmax(1)
    own, own_votes = prob[labelled], votes[labelled]
    other, other_votes = prob[at, best], votes[at, best]
    for_other = other + other_votes
    lost = own <= LOST * confidence(prob, labelled)[evidence.target]
    agreed = [member.argmax(1) == best for member in evidence.members.values()]
    pairs = evidence.conflicts
    parts = zip(best, own, other, own_votes, other_votes, strict=True)
    found = {
        "score": for_other / np.maximum(own + own_votes + for_other, 1e-12),
        "kind": kinds(pairs, own_votes > other_votes, lost & np.all(agreed, axis=0)),
        "suggested": [names[c] for c in best],
        "reason": [
            f"held out: {names[c]} {its:.2f}, label {mine:.2f}; "
            f"look-alikes: {share:.0%}, label {mine_too:.0%}"
            for c, mine, its, mine_too, share in parts
        ],
    }
    return pd.DataFrame(found)[pairs | ~evidence.right]


def label_suspects(evidence: Evidence, near: Near) -> pd.DataFrame:
    """A row for each label of a picture that is answered otherwise: some pictures have several.

    What counts is the label's self-confidence (Northcutt et al. 2021): the chance of a label that
    is given, else what it lacks to 1.
    """
    target, prob = evidence.target, evidence.prob.astype(float)
    own = np.where(target, prob, 1 - prob)
    votes = near_mean(target.astype(float), near)
    own_votes = np.where(target, votes, 1 - votes)
    lost = own <= LOST * np.where(target, *(confidence(own, side) for side in (target, ~target)))
    others = [evidence.answers(member) != target for member in evidence.members.values()]
    mixed = contradicted(evidence)
    at, column = np.nonzero(mixed | (evidence.answer != target))
    flipped = target[at]
    flipped[np.arange(len(at)), column] ^= True
    parts = zip(column, prob[at, column], target[at, column], votes[at, column], strict=True)
    found = {
        "score": 1 - (own + own_votes)[at, column] / 2,
        "kind": kinds(mixed, own_votes > 0.5, lost & np.all(others, axis=0))[at, column],
        "suggested": evidence.told(flipped),
        "reason": [
            f"{evidence.classes[c]} is {'' if given else 'not '}labelled; "
            f"held out: {chance:.2f}; look-alikes: {share:.0%}"
            for c, chance, given, share in parts
        ],
    }
    return pd.DataFrame(found, index=at)


def number_suspects(evidence: Evidence, near: Near) -> pd.DataFrame:
    """Rows whose level is answered otherwise or whose number lies far off.

    The score is how far the prediction and the mean of the look-alikes lie off, the mean of both,
    in deviations of all such distances; of several columns that of the furthest.
    """
    target, prob = evidence.target, evidence.prob.astype(float)
    means, pairs = near_mean(target, near), evidence.conflicts
    off, other = (
        np.abs(x - target) / np.maximum((x - target).std(0), 1e-12) for x in (prob, means)
    )
    score = (off + other) / 2
    at, column = np.arange(len(target)), score.argmax(1)
    own, said, alike, far, off = (x[at, column] for x in (target, prob, means, score, off))
    others = np.stack([one[at, column] - own for one in evidence.members.values()])
    agreed = (np.sign(others) == np.sign(said - own)).all(0)
    names = [f"{name}: " if len(evidence.classes) > 1 else "" for name in evidence.classes]
    parts = zip(column, own, said, alike, strict=True)
    found = {
        "score": far,
        "kind": kinds(pairs, abs(alike - own) < abs(alike - said), agreed & (off > LOST_NUMBER)),
        "suggested": evidence.told(evidence.answer),
        "reason": [
            f"{names[c]}held out {there:.4g}, label {mine:.4g}; look-alikes {mean:.4g}"
            for c, mine, there, mean in parts
        ],
    }
    return pd.DataFrame(found)[pairs | (~evidence.right if evidence.decision else far > FAR)]


def kinds(contradicted: np.ndarray, held: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """What is at fault, a word for each of three bool arrays of one shape: the first that holds."""
    names = ["pair contradictory", "model wrong", "label wrong"]
    return np.select([contradicted, held, lost], names, "really ambiguous")


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
    target = pd.DataFrame(evidence.target)
    share = target.groupby(evidence.pixels).transform("mean").to_numpy()
    return (share > 0) & (share < 1)

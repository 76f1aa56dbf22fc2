"""Which labels may be wrong, and which test pictures a label would teach most of.

Confident learning (Northcutt et al., JAIR 2021) by out-of-fold probabilities, together with the
labels of the pictures that look alike: a model that stumbles is not yet a wrong label.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.analysis.row_suspects import label_suspects, number_suspects
from pipeline.base.runs import prediction_path
from pipeline.data.studies import answered, by_id
from pipeline.inference.predictions import Predictions

LOST = 0.1  # of a class's mean confidence: below that the model sees nothing of the class


class Views(NamedTuple):
    """What speaks for a picture's label and for the best other class, float [n] each."""

    other: np.ndarray  # int, the best other class
    own_prob: np.ndarray
    other_prob: np.ndarray
    own_votes: np.ndarray  # of its neighbours, weighted by similarity, which sum to 1
    other_votes: np.ndarray
    agreeing: np.ndarray  # share of the members whose answer is `other`

    @property
    def score(self) -> np.ndarray:
        """0 to 1: the other class's part of what speaks for one of the two; .5 is undecided."""
        own, other = self.own_prob + self.own_votes, self.other_prob + self.other_votes
        return other / np.maximum(own + other, 1e-12)


def suspects(evidence: Evidence, near: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    """Rows of `evidence.table` whose answer is not their label, and contradictory twins.

    The most suspect first: score (0 to 1), kind, suggested (a class), reason. `near` is what
    `neighbours` gives of the training pictures themselves.

    A kind is "pair contradictory" where the same pixels have two labels, whatever the model says;
    "model wrong" where the look-alikes hold with the label; "label wrong" where they do not, every
    member says the other class, and the label's own probability is a tenth or less of what its
    class is given on average (the threshold of a class); else "really ambiguous". Of several labels
    or numbers a picture: `label_suspects`, `number_suspects`.
    """
    if evidence.kind == "chances":
        return label_suspects(evidence, near)
    if evidence.kind == "numbers":
        return number_suspects(evidence, near, contradictory(evidence))
    seen = weigh(evidence, near)
    confidence = class_confidence(evidence.prob, evidence.target)
    lost = seen.own_prob <= LOST * confidence[evidence.target]
    pairs = contradictory(evidence)
    kind = np.select(
        [pairs, seen.own_votes > seen.other_votes, lost & (seen.agreeing == 1)],
        ["pair contradictory", "model wrong", "label wrong"],
        "really ambiguous",
    )
    names = np.array(evidence.classes, dtype=object)
    found = pd.DataFrame(
        {
            "score": seen.score,
            "kind": kind,
            "suggested": names[seen.other],
            "reason": reasons(evidence, seen),
        }
    )
    return found[pairs | ~evidence.right].sort_values("score", ascending=False, kind="stable")


def weigh(evidence: Evidence, near: tuple[np.ndarray, np.ndarray]) -> Views:
    """Look at each label from all sides; the best other class is that of both views together."""
    prob, target, at = evidence.prob, evidence.target, np.arange(len(evidence.prob))
    votes = neighbour_votes(target, near, prob.shape[1])
    both = prob + votes
    both[at, target] = -1
    other = both.argmax(1)
    answers = [member.argmax(1) == other for member in evidence.members.values()]
    sides = [view[at, column] for view in (prob, votes) for column in (target, other)]
    return Views(other, *sides, np.mean(answers, axis=0))


def neighbour_votes(
    target: np.ndarray, near: tuple[np.ndarray, np.ndarray], classes: int
) -> np.ndarray:
    """Share of a picture's neighbours of each class, by similarity: float [n, classes]."""
    rows, similarity = near
    votes, at = np.zeros((len(rows), classes)), np.arange(len(rows))[:, None]
    np.add.at(votes, (at, target[rows]), np.maximum(similarity, 0))
    return votes / np.maximum(votes.sum(1, keepdims=True), 1e-12)


def class_confidence(prob: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean probability of a class on the pictures of its label, [classes]: its threshold."""
    own = pd.Series(prob[np.arange(len(prob)), target]).groupby(target).mean()
    return own.reindex(range(prob.shape[1])).fillna(1).to_numpy()


def contradictory(evidence: Evidence) -> np.ndarray:
    """bool [n]: another picture has the same pixels and another label.

    Pictures that are tied by a group column alone may well differ in their labels.
    """
    pixels = evidence.prepared.rows.hash.to_numpy()[evidence.table.row]
    return evidence.table.groupby(pixels).label.transform("nunique").to_numpy() > 1


def reasons(evidence: Evidence, seen: Views) -> list[str]:
    names = [evidence.classes[other] for other in seen.other]
    lines = zip(names, *seen[1:5], strict=True)
    return [
        f"held out: {name} {there:.2f}, label {own:.2f}; look-alikes: {votes:.0%}, label {mine:.0%}"
        for name, own, there, mine, votes in lines
    ]


def doubt(evidence: Evidence) -> pd.DataFrame:
    """Test pictures, those first that a label would teach most of; rows of `evidence.test`.

    entropy (nats) of the blend; margin between its two best classes, of labels to a threshold;
    disagreement: the entropy minus the mean entropy of all fold models (BALD, Houlsby et al. 2011),
    0 where they agree; rare: how much its likely classes would grow by it, the mean of 1 /
    pictures of the class. Of numbers the spread alone: how far those models lie apart, in
    deviations of the labels.
    """
    from pipeline.inference.metrics import rows_of  # late: scikit-learn

    prob, committee = evidence.test_prob.astype(float), committee_of(evidence)
    if evidence.kind == "numbers":
        spread = np.std(committee, axis=0) / np.maximum(evidence.target.std(0), 1e-12)
        found = pd.DataFrame({"spread": spread.mean(1)})
        return found.sort_values("spread", ascending=False, kind="stable")
    one_class = evidence.kind == "shares"
    best = np.sort(prob, axis=1)[:, -2:]
    counts = rows_of(evidence.target, prob).sum(0)
    found = pd.DataFrame(
        {
            "entropy": entropy(prob, one_class),
            "margin": best[:, 1] - best[:, 0] if one_class else evidence.decision.margin(prob),
            "disagreement": entropy(prob, one_class)
            - np.mean([entropy(one, one_class) for one in committee], axis=0),
            "rare": (prob / np.maximum(counts, 1)).sum(1),
        }
    ).clip(lower=0)
    return found.sort_values("entropy", ascending=False, kind="stable")


def committee_of(evidence: Evidence) -> list[np.ndarray]:
    """Test probabilities [m, classes] of every fold's model of every member."""
    paths = [
        prediction_path(run, fold, "test", about["tta"])
        for run, about in evidence.record["key"]["members"].items()
        for fold in evidence.folds
    ]
    ids, classes = list(evidence.test.image), evidence.classes
    found = [Predictions.load(path) for path in paths]
    if evidence.rules.picture:
        rows = evidence.prepared.rows
        name = answered(rows.set_index("id")[(rows.split == "test").to_numpy()])
        probs = [(name.loc[one.image], one.aligned(one.image, classes)) for one in found]
        each = [by_id(*pair, evidence.rules) for pair in probs]
        found = [Predictions(names, classes, prob) for names, prob in each]
    return [one.aligned(ids, classes).astype(float) for one in found]


def entropy(prob: np.ndarray, one_class: bool = True) -> np.ndarray:
    """In nats, of each row: of a class, or the mean over labels that are there or not."""
    found = -prob * np.log(np.maximum(prob, 1e-12))
    if one_class:
        return found.sum(1)
    return (found - (1 - prob) * np.log(np.maximum(1 - prob, 1e-12))).mean(1)

"""Which test pictures a label would teach most of."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.analysis.answered import studies_of
from pipeline.analysis.evidence import Evidence
from pipeline.base.runs import fold_paths
from pipeline.data.studies import by_id
from pipeline.inference.metrics import rows_of
from pipeline.inference.predictions import Predictions


def doubt(evidence: Evidence) -> pd.DataFrame:
    """Test pictures, those first that a label would teach most of; rows of `evidence.test`.

    entropy (nats) of the blend; margin between its two best classes, of labels to a threshold;
    disagreement: the entropy minus the mean entropy of all fold models (BALD, Houlsby et al. 2011),
    0 where they agree; rare: how much its likely classes would grow by it, the mean of 1 /
    pictures of the class. Of numbers the spread alone: how far those models lie apart, in
    deviations of the labels.
    """
    prob, committee = evidence.test_prob.astype(float), committee_of(evidence)
    if evidence.kind == "numbers":
        spread = np.std(list(committee), axis=0) / np.maximum(evidence.target.std(0), 1e-12)
        found = pd.DataFrame({"spread": spread.mean(1)})
        return found.sort_values("spread", ascending=False, kind="stable")
    one_class = evidence.kind == "shares"
    best = np.sort(prob, axis=1)[:, -2:]
    counts, own = rows_of(evidence.target, prob).sum(0), entropy(prob, one_class)
    values = {
        "entropy": own,
        "margin": best[:, 1] - best[:, 0] if one_class else evidence.decision.margin(prob),
        "disagreement": own - np.mean([entropy(one, one_class) for one in committee], axis=0),
        "rare": (prob / np.maximum(counts, 1)).sum(1),
    }
    found = pd.DataFrame(values).clip(lower=0)
    return found.sort_values("entropy", ascending=False, kind="stable")


def committee_of(evidence: Evidence) -> Iterator[np.ndarray]:
    """Test probabilities [m, classes] of every fold's model of every member: one is held at a time,
    as all may be gigabytes."""
    paths = [path for k in evidence.folds for path in fold_paths(evidence.record, k).values()]
    images, classes = Predictions.load(paths[0]).image, evidence.classes
    names = studies_of(evidence.settings, "test", images)
    for path in paths:
        prob = Predictions.load(path).aligned(images, classes)
        ids, prob = by_id(names, prob, evidence.rules) if names else (images, prob)
        found = Predictions(ids, classes, prob)
        yield found.aligned(list(evidence.test.image), classes).astype(float)


def entropy(prob: np.ndarray, one_class: bool) -> np.ndarray:
    """In nats, of each row: of a class, or the mean over labels that are there or not."""
    from scipy.special import entr  # late: half a second

    prob = prob.clip(0, 1)  # roundings
    return entr(prob).sum(1) if one_class else (entr(prob) + entr(1 - prob)).mean(1)

"""What an untrained backbone says of a run's pictures: for neighbours, maps and what-ifs.

A fine-tuned model has learnt the wrong labels too; one that has seen none cannot defend them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.data.studies import mean_by

WIDTH = 512  # numbers a picture that are kept for distances
MOST_TIED = 190  # pictures of its own group that are passed over


def load_features(evidence: Evidence, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [n, d] of the scored training pictures and [m, d] of the test pictures.

    They are standardised by the training pictures and projected to their first principal
    components, at most `width` of them. The pass over the pictures is kept on the disk.
    """
    from sklearn.decomposition import PCA  # late: scikit-learn

    from pipeline.data.on_device import release  # late: torch

    train = raw_features(evidence, "train", evidence.table.row.to_numpy())
    test = raw_features(evidence, "test", evidence.test.row.to_numpy())
    release()  # who asks may live for hours
    mean, deviation = train.mean(0), train.std(0)
    deviation = np.maximum(deviation, 0.1 * deviation.mean() + 1e-9)  # a dead channel stays dead
    train, test = (train - mean) / deviation, (test - mean) / deviation
    size = min(width, train.shape[1], len(train) - 1)
    # one iteration: half the time, and the same neighbours (leaves-small)
    pca = PCA(size, svd_solver="randomized", iterated_power=1, random_state=0).fit(train)
    return pca.transform(train), pca.transform(test)


def raw_features(evidence: Evidence, split: str, rows: np.ndarray) -> np.ndarray:
    """What the head of the experiment's untrained model reads in one view, float32 [n, width].

    `rows` are those of the packed pixels; of an id of several pictures it is their mean. Of first
    weights that differ by fold it is those of the blend's first fold.
    """
    from pipeline.base.device import make_accelerator, tuned  # late: torch
    from pipeline.inference.features import FrozenFeatures
    from pipeline.inference.predictor import Predictor
    from pipeline.inference.tta import VIEWS
    from pipeline.model.build import build_model, preprocessing, to_device

    settings = tuned(evidence.settings)
    accelerator = make_accelerator(settings.runtime)
    fold = evidence.folds[0]
    model = build_model(settings.model, 2, fold)  # two classes: nobody reads its head
    how = preprocessing(model, settings.model)
    model = to_device(model, settings.runtime, settings.model.size, accelerator.device)
    # whatever the training will do to BatchNorm: here nothing moves, and all folds share one pass
    still = settings.train.model_copy(update={"epochs": 0})
    still = settings.model_copy(update={"train": still})
    frozen = FrozenFeatures(Predictor(model, how, accelerator, settings.runtime), still)
    parts = [evidence.pictures.get(row, [row]) for row in rows]
    found = frozen.of(split, np.concatenate(parts), VIEWS["none"])[:, 0].numpy()
    return mean_by(np.repeat(rows, list(map(len, parts))), found)[1] if evidence.pictures else found


def neighbours(
    train: np.ndarray, query: np.ndarray, k: int, group: Sequence[object] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows of `train` [n, d] nearest to each row of `query` [q, d], by cosine.

    Returns rows int [q, k], the nearest first, and similarities float32 [q, k]. If `query` is
    `train` itself, a picture is no neighbour of its own; nor are, with `group` [n], those of its
    group, whose wrong label is the same. Where nothing else is near they are, of no similarity.
    """
    from sklearn.neighbors import NearestNeighbors  # late: scikit-learn

    own, code = query is train, None if group is None else pd.factorize(np.asarray(group))[0]
    tied = 0 if code is None else min(int(np.bincount(code).max()) - 1, MOST_TIED)
    known = NearestNeighbors(n_neighbors=min(k + tied, len(train) - own), metric="cosine")
    distance, rows = known.fit(train).kneighbors(None if own else query)
    if tied:
        same = code[rows] == code[:, None]
        order = np.argsort(same, axis=1, kind="stable")[:, :k]
        distance = np.take_along_axis(np.where(same, 1, distance), order, 1)
        rows = np.take_along_axis(rows, order, 1)
    return rows, 1 - distance

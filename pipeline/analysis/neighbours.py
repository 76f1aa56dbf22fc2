"""What an untrained backbone says of a run's pictures: for neighbours, maps and what-ifs.

A fine-tuned model has learnt the wrong labels too; one that has seen none cannot defend them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.data.studies import mean_by

if TYPE_CHECKING:
    from pipeline.inference.features import FrozenFeatures

WIDTH = 512  # numbers a picture that are kept for distances
MOST_TIED = 190  # pictures of its own group that are passed over


def load_features(evidence: Evidence, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [n, d] of the scored training pictures and [m, d] of the test pictures.

    They are standardised by the training pictures and projected to their first principal
    components, at most `width` of them; of more than MAX_IMAGES rows by so many of them, and no
    more are held as wide as they come. The pass over so many pictures is kept on the disk.
    """
    from pipeline.data.on_device import release  # late: torch

    found = project(evidence, width)
    release()  # who asks may live for hours, and the model has gone with the call
    return found


def project(evidence: Evidence, width: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import PCA  # late: scikit-learn

    from pipeline.inference.features import MAX_IMAGES  # late: torch

    frozen, rows = untrained(evidence), evidence.table.row.to_numpy()
    some = np.sort(np.random.default_rng(0).permutation(len(rows))[:MAX_IMAGES])
    known = raw_features(frozen, "train", rows[some], evidence.pictures)
    mean, deviation = known.mean(0), known.std(0)
    deviation = np.maximum(deviation, 0.1 * deviation.mean() + 1e-9)  # a dead channel stays dead
    size = min(width, known.shape[1], len(known) - 1)
    # one iteration: half the time, and the same neighbours (leaves-small)
    pca = PCA(size, svd_solver="randomized", iterated_power=1, random_state=0)
    pca.fit(known := (known - mean) / deviation)

    def of(split: str, rows: np.ndarray) -> np.ndarray:
        parts = np.split(rows, range(MAX_IMAGES, len(rows), MAX_IMAGES))
        each = (raw_features(frozen, split, part, evidence.pictures) for part in parts)
        return np.concatenate([pca.transform((one - mean) / deviation) for one in each])

    train = pca.transform(known) if len(some) == len(rows) else None
    del known
    return of("train", rows) if train is None else train, of("test", evidence.test.row.to_numpy())


def untrained(evidence: Evidence) -> "FrozenFeatures":
    """What the head of the experiment's untrained model reads.

    Of first weights that differ by fold it is that of the blend's first fold.
    """
    from pipeline.base.device import make_accelerator, tuned  # late: torch
    from pipeline.inference.features import FrozenFeatures
    from pipeline.inference.predictor import Predictor
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
    return FrozenFeatures(Predictor(model, how, accelerator, settings.runtime), still)


def raw_features(
    frozen: "FrozenFeatures", split: str, rows: np.ndarray, pictures: dict[int, np.ndarray]
) -> np.ndarray:
    """In one view, float32 [n, width], of rows of the packed pixels.

    Of an id of several `pictures` it is their mean.
    """
    from pipeline.inference.tta import VIEWS  # late: torch

    parts = [pictures.get(row, [row]) for row in rows]
    found = frozen.of(split, np.concatenate(parts), VIEWS["none"])[:, 0].numpy()
    return mean_by(np.repeat(rows, list(map(len, parts))), found)[1] if pictures else found


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

"""What an untrained backbone says of a run's pictures: for neighbours, maps and what-ifs.

A fine-tuned model has learnt the wrong labels too; one that has seen none cannot defend them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.evidence import Evidence
from pipeline.data.studies import mean_by

if TYPE_CHECKING:
    import torch

    from pipeline.base.config import Experiment

WIDTH = 512  # numbers a picture that are kept for distances
CHUNK = 1024


def load_features(evidence: Evidence, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [n, d] of the scored training pictures and [m, d] of the test pictures.

    They are standardised by the training pictures and projected to their first principal
    components, at most `width` of them. The pass over the pictures is kept on the disk.
    """
    from sklearn.decomposition import PCA  # late: scikit-learn

    train = id_features(evidence, "train", evidence.table.row.to_numpy())
    test = id_features(evidence, "test", evidence.test.row.to_numpy())
    mean, deviation = train.mean(0), train.std(0)
    deviation = np.maximum(deviation, 0.1 * deviation.mean() + 1e-9)  # a dead channel stays dead
    train, test = (train - mean) / deviation, (test - mean) / deviation
    size = min(width, train.shape[1], len(train) - 1)
    # one iteration: half the time, and the same neighbours (leaves-small)
    pca = PCA(size, svd_solver="randomized", iterated_power=1, random_state=0).fit(train)
    return pca.transform(train), pca.transform(test)


def id_features(evidence: Evidence, split: str, rows: np.ndarray) -> np.ndarray:
    """As `raw_features`; of an id of several pictures their mean."""
    if not evidence.pictures:
        return raw_features(evidence.settings, split, rows)
    parts = [evidence.pictures[row] for row in rows]
    found = raw_features(evidence.settings, split, np.concatenate(parts))
    return mean_by(np.repeat(rows, [len(part) for part in parts]), found)[1]


def raw_features(settings: "Experiment", split: str, rows: np.ndarray) -> np.ndarray:
    """What the head of the experiment's untrained model reads in one view, float32 [n, width].

    `rows` are those of the packed pixels. Of first weights that differ by fold it is fold 0's.
    """
    from pipeline.inference.tta import VIEWS  # late: torch

    return view_features(settings, split, rows, VIEWS["none"])[:, 0].numpy()


def view_features(
    settings: "Experiment", split: str, rows: np.ndarray, views: list[Any]
) -> "torch.Tensor":
    """As `raw_features`, float32 [n, views, width]."""
    from pipeline.base.device import make_accelerator, tuned  # late: torch
    from pipeline.inference.features import FrozenFeatures
    from pipeline.inference.predictor import Predictor
    from pipeline.model.build import build_model, preprocessing, to_device

    runtime = tuned(settings).runtime
    accelerator = make_accelerator(runtime)
    model = build_model(settings.model, 2, fold=0)  # two classes: nobody reads its head
    how = preprocessing(model, settings.model)
    model = to_device(model, runtime, settings.model.size, accelerator.device)
    # whatever the training will do to BatchNorm: here nothing moves, and all folds share one pass
    still = settings.train.model_copy(update={"epochs": 0})
    still = settings.model_copy(update={"train": still})
    return FrozenFeatures(Predictor(model, how, accelerator, runtime), still).of(split, rows, views)


def neighbours(train: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows of `train` [n, d] nearest to each row of `query` [q, d], by cosine.

    Returns rows int [q, k], the nearest first, and similarities float32 [q, k]. If `query` is
    `train` itself, a picture is no neighbour of its own.
    """
    own, unit = query is train, normed(train)
    k = min(k, len(train) - own)
    starts = range(0, len(query), CHUNK)
    found = [nearest(unit, query[i : i + CHUNK], k, i if own else None) for i in starts]
    rows, similarity = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(similarity)


def nearest(
    unit: np.ndarray, query: np.ndarray, k: int, first: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of a chunk whose queries are rows `first`, `first` + 1, ... of `unit` if that is given."""
    similarity = normed(query) @ unit.T
    if first is not None:
        at = np.arange(len(query))
        similarity[at, first + at] = -np.inf
    rows = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
    found = np.take_along_axis(similarity, rows, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1), np.take_along_axis(found, order, 1)


def normed(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

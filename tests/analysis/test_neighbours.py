"""Features for neighbours and maps, of pictures that lie near where they look alike."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import neighbours as module
from pipeline.analysis.neighbours import load_features, neighbours
from pipeline.base.config import load_experiment
from pipeline.data import on_device
from pipeline.data.prepared import load_prepared
from pipeline.inference import features
from pipeline.inference.features import FrozenFeatures


def test_neighbours_by_angle_and_never_oneself() -> None:
    train = np.array([[1, 0], [10, 1], [0, 1], [1, 1.2], [2, -0.1]], dtype=np.float32)
    rows, similarity = neighbours(train, train, 2)
    assert rows.tolist() == [[4, 1], [0, 4], [3, 1], [2, 1], [0, 1]]
    assert similarity[3] == pytest.approx([1.2 / 2.44**0.5, 11.2 / (101 * 2.44) ** 0.5], abs=1e-6)
    rows, similarity = neighbours(train, np.array([[0, 3.0]]), 9)
    assert rows.tolist() == [[2, 3, 1, 0, 4]] and similarity[0, 0] == pytest.approx(1)


def test_those_of_ones_own_group_do_not_count() -> None:
    train = np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.5], [0, 1]], dtype=np.float32)
    rows, similarity = neighbours(train, train, 2, ["p", "p", "p", "q", "r"])
    assert rows.tolist() == [[3, 4], [3, 4], [3, 4], [2, 1], [3, 2]]
    assert similarity[0] == pytest.approx([1 / 1.25**0.5, 0], abs=1e-6)
    few = train[:4]
    rows, similarity = neighbours(few, few, 2, list("pppq"))
    assert rows[0, 0] == 3 and similarity[0, 1] == 0


def test_twins_are_each_others_nearest(
    write: Callable[..., str], split: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released, raw = [], module.raw_features
    models = weakref.WeakSet()

    def release() -> None:
        gc.collect()
        released.append(len(models))

    monkeypatch.setattr(on_device, "release", release)
    asked = []

    def watched(frozen: FrozenFeatures, split: str, some: np.ndarray, *rest: dict) -> np.ndarray:
        models.add(frozen.model)
        asked.append(len(some))
        return raw(frozen, split, some, *rest)

    monkeypatch.setattr(module, "raw_features", watched)
    settings = load_experiment(split(write()))
    rows = load_prepared(settings).rows
    train, test = rows[rows.split == "train"], rows[rows.split == "test"]
    table, other = (pd.DataFrame({"row": part.index}) for part in (train, test))
    evidence = SimpleNamespace(settings=settings, table=table, test=other, pictures={}, folds=[0])
    ours, theirs = load_features(evidence)
    assert asked == [60, 12] and released == [0], "a GPU's memory is given back, the model's too"
    assert ours.shape == (60, 59) and theirs.shape == (12, 59)
    assert abs(ours.mean(0)).max() < 1e-3, "centred on the training pictures"
    twins = np.flatnonzero(train.duplicated("hash", keep=False))
    near, similarity = neighbours(ours, ours, 1)
    assert len(twins)
    assert train.hash.to_numpy()[near[twins, 0]].tolist() == train.hash.iloc[twins].tolist()
    assert similarity[twins, 0] == pytest.approx(np.ones(len(twins)), abs=1e-4)
    asked.clear()
    monkeypatch.setattr(features, "MAX_IMAGES", 25)
    parts, others = load_features(evidence)
    assert asked == [25, 25, 25, 10, 12], "some that tell the axes, then all"
    assert parts.shape == (60, 24) and others.shape == (12, 24)
    near, _ = neighbours(parts, parts, 1)
    assert train.hash.to_numpy()[near[twins, 0]].tolist() == train.hash.iloc[twins].tolist()

"""What a change would do to the closed-form head: the same as fitting it anew."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import whatif
from pipeline.analysis.whatif import WhatIf, paired
from pipeline.base.cli import UserError

CLASSES = 5


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [140, 12] of unequal classes that overlap, targets and folds."""
    rng = np.random.default_rng(3)
    target = np.repeat(np.arange(CLASSES), [50, 40, 25, 15, 10])
    centres = rng.normal(size=(CLASSES, 12))
    features = centres[target] + rng.normal(size=(140, 12)) * np.linspace(0.5, 2, 12)
    return features.astype(np.float32), target, rng.permutation(140) % 3


def head(features: np.ndarray, target: np.ndarray, shrinkage: float) -> Callable:
    """The discriminant by its definition, in plain NumPy; returns features → logits."""
    x = features.astype(float)
    means = np.stack([x[target == c].mean(0) for c in range(CLASSES)])
    within = sum(np.outer(row, row) for row in x - means[target]) / (len(x) - CLASSES)
    ridge = shrinkage * np.trace(within) / len(within) + 1e-9
    shrunk = (1 - shrinkage) * within + ridge * np.eye(len(within))
    weight = np.linalg.solve(shrunk, means.T).T
    return lambda rows: rows @ weight.T - 0.5 * (weight * means).sum(1)


def test_taken_from_the_sums_is_fitted_anew(drawn: tuple[np.ndarray, ...]) -> None:
    features, target, fold = drawn
    others = features[:4] + 0.5
    what = WhatIf(features, target, fold, CLASSES, others)
    drop, relabel, add = [0, 1, 77, 139], {2: 4, 90: 0, 77: 1}, {3: 2, 1: 2}
    gone = [0, 1, 2, 77, 90, 139]
    fitted = np.full(len(target), -1)
    for k in range(3):
        mended = target.copy()
        mended[[2, 90]] = [4, 0]
        learnt = [i for i in range(140) if fold[i] != k and i not in drop]
        x = np.concatenate([features[learnt], others[[3, 1]]])
        logits = head(x, np.append(mended[learnt], [2, 2]), what.shrinkage)
        weight, bias = what.changed(k, np.array(gone), {2: 4, 90: 0}, add).solve(what.shrinkage)
        ours = features.astype(float) @ weight.numpy().T + bias.numpy()
        assert abs(ours - logits(features)).max() < 1e-6
        fitted[fold == k] = logits(features[fold == k]).argmax(1)
    effect = what.effect(drop, relabel, add)
    kept = ~np.isin(np.arange(140), gone)
    assert effect["after"] == pytest.approx((fitted == target)[kept].mean())
    assert effect["before"] == pytest.approx(what.right[kept].mean())
    assert effect["won"] + effect["lost"] > 0 and effect["low"] < effect["delta"] < effect["high"]


def test_no_change_is_no_effect_and_a_class_may_vanish(drawn: tuple[np.ndarray, ...]) -> None:
    features, target, fold = drawn
    what = WhatIf(features, target, fold, CLASSES)
    none = what.effect()
    assert none["delta"] == none["low"] == none["high"] == none["won"] == 0
    gone = np.flatnonzero(target == 1)
    without = what.effect(drop=gone)
    assert without["lost"] == 0 and without["won"] > 0, "nobody is taken for class 1 any more"


def test_of_one_fold_there_is_nothing_to_learn_from(drawn: tuple[np.ndarray, ...]) -> None:
    features, target, _ = drawn
    with pytest.raises(UserError, match="of a single fold"):
        WhatIf(features, target, np.ones(len(target), int), CLASSES)


def test_more_of_a_class_are_the_others_that_look_most_like_it(
    drawn: tuple[np.ndarray, ...],
) -> None:
    features, target, fold = drawn
    centres = np.stack([features[target == c].mean(0) for c in range(CLASSES)])
    others = np.stack([centres[2] * 0.8 + centres[3] * 0.2, centres[3], centres[2], centres[0]])
    what = WhatIf(features, target, fold, CLASSES, others)
    assert list(what.likely(2, 9)) == [2, 0] and set(what.likely(2, 9).values()) == {2}
    assert what.likely(2, 1) == {2: 2} and what.likely(4, 9) == {}


def test_mended_labels_gain_what_planted_errors_lost(drawn: tuple[np.ndarray, ...]) -> None:
    features, target, fold = drawn
    planted = target.copy()
    wrong = np.flatnonzero(target == 2)[:18]
    planted[wrong] = 0
    what = WhatIf(features, planted, fold, CLASSES)
    mended = what.effect(relabel=dict.fromkeys(wrong.tolist(), 2))
    assert mended["delta"] > 0.02 and mended["low"] > 0


def test_the_interval_is_that_of_the_paired_bootstrap() -> None:
    before = np.repeat([True, True, False, False], [50, 6, 24, 20])
    after = np.repeat([True, False, True, False], [50, 6, 24, 20])
    found = paired(before, after, np.arange(100))
    assert (found["won"], found["lost"], found["delta"]) == (24, 6, 0.18)
    deviation = np.sqrt((0.3 - 0.18**2) / 100)
    assert found["low"] == pytest.approx(0.18 - 1.96 * deviation, abs=0.015)
    assert found["high"] == pytest.approx(0.18 + 1.96 * deviation, abs=0.015)


def test_groups_come_whole_into_the_interval() -> None:
    before = np.tile(np.repeat([True, True, False, False], [50, 6, 24, 20]), 10)
    after = np.tile(np.repeat([True, False, True, False], [50, 6, 24, 20]), 10)
    ids = np.arange(1000)
    alone, tied = (paired(before, after, group) for group in (ids, ids % 100))
    assert (alone["delta"], alone["won"]) == (tied["delta"], tied["won"])
    wider = (tied["high"] - tied["low"]) / (alone["high"] - alone["low"])
    assert wider == pytest.approx(10**0.5, rel=0.1)


def test_the_groups_are_those_of_the_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    some = np.arange(8.0).reshape(4, 2)
    monkeypatch.setattr(whatif, "load_features", lambda *_: (some, some))
    table = pd.DataFrame({"fold": [0, 1, 0, 1], "group": list("abab")})
    evidence = SimpleNamespace(table=table, target=np.array([0, 1, 1, 0]), classes=["x", "y"])
    assert list(WhatIf.of(evidence).group) == list("abab")


def test_4000_pictures_are_answered_within_two_seconds() -> None:
    rng = np.random.default_rng(0)
    target = np.arange(4000) % 176
    features = rng.normal(size=(4000, 1024)).astype(np.float32)
    what = WhatIf(features, target, np.arange(4000) // 176 % 5, 176)
    started = time.process_time()  # what else runs on this machine does not count
    what.effect(drop=range(12), relabel={50: 3, 70: 4})
    assert time.process_time() - started < 2

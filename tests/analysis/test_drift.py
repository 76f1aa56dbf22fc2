"""Drift is seen where there is one, and not where there is none; maps keep neighbours together."""

import numpy as np

from pipeline.analysis.drift import drift, layout


def test_a_classifier_tells_what_differs_and_guesses_what_does_not() -> None:
    draw = np.random.default_rng(0)
    train, test = draw.normal(size=(300, 60)), draw.normal(size=(150, 60))
    assert abs(drift(train, test).auc - 0.5) < 0.1
    test[:75, 3] += 6  # half of them are another kind
    found = drift(train, test)
    assert 0.7 < found.auc < 0.9
    assert found.train.shape == (300,) and found.test.shape == (150,)
    assert found.test[:75].mean() > found.test[75:].mean() + 0.3
    assert found.train.argmin() in range(300) and 0 <= found.test.min() <= found.test.max() <= 1


def test_alike_pictures_lie_side_by_side() -> None:
    draw = np.random.default_rng(1)
    kind = np.repeat([0, 1, 2], [20, 30, 10])
    places = layout((draw.normal(size=(60, 8)) + 20 * np.eye(8)[kind]).astype(np.float32))
    assert places.shape == (60, 2)
    assert places.min() == 0 and places.max() == 1
    for i, place in enumerate(places):
        nearest = np.argsort(((places - place) ** 2).sum(1))[1]
        assert kind[nearest] == kind[i]

"""Calibration and intervals: by hand on small numbers, by theory on large ones."""

import numpy as np
import pytest

from pipeline.analysis.paired import interval
from pipeline.inference.reliability import reliability


def test_the_error_of_calibration_by_hand() -> None:
    confidence = np.array([0.95, 0.9, 0.55, 0.6, 1.0])
    right = np.array([True, False, True, True, True])
    found = reliability(confidence, right, bins=2)  # all in the upper half
    assert found.n.tolist() == [5]
    assert found.ece == pytest.approx(abs(0.8 - 0.8))
    found = reliability(confidence, right, bins=10)
    assert found.n.tolist() == [1, 1, 3], "0.55; 0.6; 0.9, 0.95 and 1.0"
    np.testing.assert_allclose(found.confidence, [0.55, 0.6, 0.95])
    np.testing.assert_allclose(found.accuracy, [1, 1, 2 / 3])
    assert found.ece == pytest.approx((0.45 + 0.4 + 3 * (0.95 - 2 / 3)) / 5)
    assert found.overconfident == pytest.approx(0.0, abs=1e-9)
    assert reliability(np.array([0.9, 0.9]), np.array([True, False])).overconfident > 0.39


def test_the_interval_of_an_accuracy_is_that_of_theory() -> None:
    target = np.zeros(1000, dtype=int)
    prob = np.tile([0.9, 0.1], (1000, 1))
    prob[:200] = [0.1, 0.9]  # a fifth is wrong: .8 ± 1.96 * .0126
    low, high = interval("accuracy", target, prob, np.arange(1000))
    assert low == pytest.approx(0.7752, abs=0.004) and high == pytest.approx(0.8248, abs=0.004)
    ten = np.arange(1000) // 10  # ten of each picture: as sure as a hundred pictures
    wide = interval("accuracy", target, prob, ten)
    assert wide[1] - wide[0] == pytest.approx((high - low) * 10**0.5, rel=0.15)


@pytest.mark.parametrize(("metric", "score"), [("log_loss", 0.4799), ("macro_f1", 0.7619)])
def test_every_metric_lies_within_its_interval(metric: str, score: float) -> None:
    target = np.tile([0, 0, 1, 1, 0], 40)
    prob = np.tile([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.7, 0.3], [0.6, 0.4]], (40, 1))
    low, high = interval(metric, target, prob, np.arange(200))
    assert metric == "log_loss" or (low + high) / 2 == pytest.approx(score, abs=1e-4)
    assert low < score < high and 0.03 < high - low < 0.2

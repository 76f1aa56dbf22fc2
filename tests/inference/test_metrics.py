"""Metrics on probabilities, by hand-worked numbers."""

import numpy as np
import pytest

from pipeline.inference.metrics import METRICS

TARGET = np.array([0, 0, 1, 2])
PROB = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 0.75),
        ("log_loss", -np.log([0.7, 0.2, 0.8, 0.4]).mean()),
        ("macro_f1", np.mean([2 / 3, 2 / 3, 1])),
        ("auc", np.mean([0.75, 1.0, 1.0])),
        # squared distances: observed 1 (one 0 taken for 1); expected by the margins 5
        ("quadratic_kappa", 1 - 1 / 5),
    ],
)
def test_value(name: str, expected: float) -> None:
    assert METRICS[name](TARGET, PROB) == pytest.approx(expected, abs=1e-6)


def test_classes_that_are_absent_do_not_break_auc_and_log_loss() -> None:
    some = TARGET < 2
    assert METRICS["auc"](TARGET[some], PROB[some]) == pytest.approx(np.mean([0.75 + 0.25, 1.0]))
    assert METRICS["log_loss"](TARGET[some], PROB[some]) == pytest.approx(
        -np.log([0.7, 0.2, 0.8]).mean(), abs=1e-6
    )


def test_every_metric_of_the_settings_exists() -> None:
    from pipeline.base.competition import Competition

    allowed = Competition.model_fields["metric"].annotation.__args__
    assert set(allowed) == set(METRICS)

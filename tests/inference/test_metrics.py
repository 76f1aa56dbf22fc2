"""Metrics on probabilities, by hand-worked numbers."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, fbeta_score

from pipeline.base import competition
from pipeline.base.competition import Competition
from pipeline.inference.metrics import METRICS

TARGET = np.array([0, 0, 1, 2])
PROB = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 0.75),
        ("log_loss", -np.log([0.7, 0.2, 0.8, 0.4]).mean()),
        ("balanced_log_loss", -np.log([[0.7, 0.2], [0.8, 0.8], [0.4, 0.4]]).mean()),
        ("macro_f1", np.mean([2 / 3, 2 / 3, 1])),
        ("auc", np.mean([0.75, 1.0, 1.0])),
        # squared distances: observed 1 (one 0 taken for 1); expected by the margins 5
        ("quadratic_kappa", 1 - 1 / 5),
        ("balanced_accuracy", np.mean([0.5, 1, 1])),
        ("map_at_3", np.mean([1, 1 / 2, 1, 1])),
        ("top_3", 1),
    ],
)
def test_value(name: str, expected: float) -> None:
    assert METRICS[name](TARGET, PROB) == pytest.approx(expected, abs=1e-6)


MARKS = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=bool)
CHANCES = np.array([[0.9, 0.2, 0.4], [0.6, 0.1, 0.7], [0.8, 0.3, 0.1], [0.2, 0.4, 0.3]], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 0.25),
        ("micro_f1", 6 / 9),  # 3 hits of 5 labels and 4 answers
        ("macro_f1", np.mean([4 / 5, 0, 2 / 3])),
        ("samples_f1", np.mean([2 / 3, 2 / 3, 2 / 3, 0])),
        ("samples_f2", np.mean([5 / 9, 5 / 6, 5 / 9, 0])),
        ("auc", np.mean([1, 2 / 3, 1])),
        ("average_precision", np.mean([1, 0.5, 1])),
        ("log_loss", -np.log(np.where(MARKS, CHANCES, 1 - CHANCES)).mean()),
    ],
)
def test_value_of_labels(name: str, expected: float) -> None:
    assert METRICS[name](MARKS, CHANCES) == pytest.approx(expected, abs=1e-6)


def test_values_of_numbers_and_of_two_classes() -> None:
    target, value = np.array([[1.0], [2.0], [4.0], [5.0]]), np.array([[1.4], [2.0], [3.0], [9.0]])
    errors = np.array([0.4, 0, 1, 4])
    assert METRICS["rmse"](target, value) == pytest.approx(np.sqrt((errors**2).mean()))
    assert METRICS["mae"](target, value) == pytest.approx(errors.mean())
    assert METRICS["r2"](target, value) == pytest.approx(1 - (errors**2).sum() / 10)
    assert METRICS["pearson"](target, -value) == pytest.approx(
        -np.corrcoef(target.T, value.T)[0, 1]
    )
    assert METRICS["accuracy"](target, value) == 0.5  # 9 is no level of theirs
    two, share = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.7, 0.4])
    prob = np.stack([1 - share, share], 1)
    assert METRICS["f1"](two, prob) == pytest.approx(0.5)
    none_missed = 5 * 2 / (4 * 2 + 4)  # of 4 called so 2 are right
    assert METRICS["f2"](two, np.tile([0.4, 0.6], (4, 1))) == pytest.approx(none_missed)
    likely = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    assert METRICS["top_3"](np.array([2, 0]), likely) == 0.5
    assert METRICS["mcc"](two, prob) == pytest.approx(0)
    assert METRICS["average_precision"](two, prob) == pytest.approx((1 + 2 / 3) / 2)
    assert METRICS["balanced_accuracy"](np.array([0, 0, 0, 1]), prob) == pytest.approx(1 / 6)
    called = np.eye(3)[[0, 2, 1]]  # 2, which none of them is
    assert METRICS["balanced_accuracy"](np.array([0, 0, 1]), called) == pytest.approx(0.75)


def test_classes_that_are_absent_do_not_break_auc_and_log_loss() -> None:
    some = TARGET < 2
    assert METRICS["auc"](TARGET[some], PROB[some]) == pytest.approx(np.mean([0.75 + 0.25, 1.0]))
    assert METRICS["log_loss"](TARGET[some], PROB[some]) == pytest.approx(
        -np.log([0.7, 0.2, 0.8]).mean(), abs=1e-6
    )


def test_tiny_chances_are_ranked_although_their_complements_are_equal() -> None:
    chance = np.array([1e-10, 2e-10, 3e-10, 4e-10], np.float32)
    assert METRICS["auc"](np.array([0, 0, 1, 1]), np.stack([1 - chance, chance], 1)) == 1


@pytest.mark.parametrize("metric", ["auc", "average_precision"])
def test_without_a_positive_there_is_no_score(metric: str) -> None:
    with warnings.catch_warnings(action="error"):
        assert np.isnan(METRICS[metric](np.zeros(4, int), np.eye(2)[[0, 1, 0, 1]]))
        assert np.isnan(METRICS[metric](np.zeros((4, 3), bool), CHANCES))


@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_f_of_any_beta_is_that_of_scikit_learn(beta: float) -> None:
    random = np.random.default_rng(0)
    marks, chances = random.random((30, 4)) < 0.3, random.random((30, 4))
    for average in ("macro", "micro", "samples"):
        expected = fbeta_score(marks, chances >= 0.5, beta=beta, average=average, zero_division=0)
        assert METRICS[f"{average}_f{beta}"](marks, chances) == pytest.approx(expected)
    target, shares = random.integers(0, 2, 30), np.stack([1 - chances[:, 0], chances[:, 0]], 1)
    expected = fbeta_score(target, shares.argmax(1), beta=beta)
    assert METRICS[f"f{beta}"](target, shares) == pytest.approx(expected)
    target = random.integers(0, 4, 30)
    expected = fbeta_score(target, chances.argmax(1), beta=beta, average="macro")
    assert METRICS[f"macro_f{beta}"](target, chances) == pytest.approx(expected)
    assert METRICS["f1"](np.zeros(3, int), np.eye(2)[[0, 0, 0]]) == 0


def test_every_metric_of_the_settings_exists() -> None:
    assert all(callable(METRICS[name]) for name in competition.METRICS)
    assert METRICS["map_at_2"](TARGET, PROB) == METRICS["map_at_3"](TARGET, PROB) == 0.875
    assert METRICS["top_1"](TARGET, PROB) == 0.75


@pytest.mark.parametrize(
    ("task", "metric"),
    [("binary", "f0.5"), ("multi-label", "samples_f3"), ("classes", "top_10")],
)
def test_a_metric_takes_any_number_of_its_own(task: str, metric: str) -> None:
    assert Competition(task=task, metric=metric).metric == metric
    for wrong in (
        "f",
        "f-1",
        "f0",
        "macro_f0.0",
        "map_at_0",
        "map_at_2.5",
        "samples_f",
        "r3",
        "f#",
    ):
        with pytest.raises(ValueError, match=f"takes no metric: {wrong}, but"):
            Competition(task=task, metric=wrong)
    with pytest.raises(ValueError, match="takes no metric"):
        Competition(task="regression", metric=metric)


@pytest.mark.parametrize("levels", [2, 5])
def test_kappa_is_that_of_scikit_learn(levels: int) -> None:
    random = np.random.default_rng(levels)
    target = 1 + random.integers(0, levels, (60, 1)).astype(float)
    value = 0.6 * target + random.normal(0.8, 0.7, target.shape)  # shrunk and shifted
    value = value.clip(1, levels)  # as answers are
    prob, classes = random.dirichlet(np.ones(levels), 60), target[:, 0].astype(int) - 1
    found = np.rint(value)[:, 0].astype(int) - 1
    for given, said in (((target, value), found), ((classes, prob), prob.argmax(1))):
        expected = cohen_kappa_score(classes, said, weights="quadratic")
        assert METRICS["quadratic_kappa"](*given) == pytest.approx(expected, abs=1e-12)


def test_a_level_that_none_of_these_pictures_has_is_wrong() -> None:
    true, said = np.array([[0.0], [1.0], [2.0], [1.0]]), np.array([[0.0], [1.0], [4.0], [1.0]])
    expected = cohen_kappa_score(true, said, weights="quadratic", labels=range(5))
    assert METRICS["quadratic_kappa"](true, said) == pytest.approx(expected) and expected < 0.7
    assert METRICS["accuracy"](true, said) == 0.75


def test_kappa_of_one_level_is_undefined_and_silent() -> None:
    with np.errstate(all="raise"):
        assert np.isnan(METRICS["quadratic_kappa"](np.full((3, 1), 2.0), np.full((3, 1), 2.2)))

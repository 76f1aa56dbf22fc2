"""Means of answers by hand, and weights that are fitted: real gains are taken, luck is not."""

import numpy as np
import pytest

from pipeline.analysis.blend_weights import Held, climb, fit
from pipeline.inference.blending import Blend, Mean

ONE = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
TWO = np.array([[0.5, 0.5], [0.9, 0.1], [0.7, 0.3]], dtype=np.float32)


def test_the_three_means_by_hand() -> None:
    plain = Blend()([ONE, TWO], [3, 1])
    np.testing.assert_allclose(plain[:, 0], [0.8, 0.375, 0.625], atol=1e-6)
    odds = (ONE[:, 0] / ONE[:, 1]) ** 0.75 * (TWO[:, 0] / TWO[:, 1]) ** 0.25
    logits = Blend(Mean.LOGITS)([ONE, TWO], [3, 1])
    np.testing.assert_allclose(logits[:, 0], odds / (1 + odds), atol=1e-6)
    ranks = Blend(Mean.RANKS)([ONE, TWO], [3, 1])  # of the first class: 3, 1, 2 and 1, 3, 2
    np.testing.assert_allclose(ranks[:, 0], [2.5 / 4, 1.5 / 4, 2 / 4], atol=1e-6)
    for found in (plain, logits, ranks):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    sure = Blend(Mean.LOGITS)([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], [1, 1])
    np.testing.assert_allclose(sure, [[0.5, 0.5]], atol=1e-6)


def test_labels_are_averaged_each_by_itself() -> None:
    both = (
        np.array([[0.9, 0.2], [0.2, 0.3], [0.6, 1.0]]),
        np.array([[0.5, 0.9], [0.9, 0.8], [0.7, 0]]),
    )
    ranks = Blend(Mean.RANKS, labels=True)(both, [3, 1])
    np.testing.assert_allclose(ranks, [[2.5 / 4, 1.5 / 4], [1.5 / 4, 2 / 4], [0.5, 2.5 / 4]])
    logits = Blend(Mean.LOGITS, labels=True)(both, [3, 1])
    odds = (9**0.75, (1 / 4) ** 0.75 * 9**0.25)
    np.testing.assert_allclose(logits[0], [x / (1 + x) for x in odds], rtol=1e-5)
    assert 0.99 < logits[2, 1] < 1, "one run that is sure does not make it certain"


def test_of_a_run_the_mean_of_its_folds_counts() -> None:
    how = Blend(Mean.LOGITS)
    found = how.of_folds([[ONE, TWO], [ONE]], [1, 1])
    np.testing.assert_allclose(found, how([(ONE + TWO) / 2, ONE], [1, 1]), atol=1e-6)


def held_of(skills: list[float], metric: str = "accuracy", mean: Mean = Mean.PROBABILITIES) -> Held:
    """300 rows of four classes; a run of skill s knows the class of a share s of them."""
    draw, n, classes = np.random.default_rng(0), 300, 4
    target, answers = draw.integers(classes, size=n), []
    for skill in skills:
        prob = draw.dirichlet(np.ones(classes), n) / 2
        sure = np.where(draw.random(n) < skill, target, draw.integers(classes, size=n))
        prob[np.arange(n), sure] += 0.5
        answers.append(prob.astype(np.float32))
    group = np.array([f"g{i}" for i in range(n)])
    return Held(answers, target, np.arange(n) % 5, group, metric, Blend(mean))


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_a_real_gain_is_taken(metric: str) -> None:
    held = held_of([0.9, 0.0, 0.0], metric)
    found = fit(held, ["good", "bad", "worse"], [1, 1, 1])
    better = found["nested"] - found["given"]
    assert (better if metric != "log_loss" else -better) > 0.02
    assert found["taken"] and 0 < found["low"] < found["high"]
    assert found["weights"] == found["climbed"] and found["weights"][0] > 0.8
    assert sum(found["weights"]) == pytest.approx(1)


def test_luck_is_not_taken() -> None:
    held = held_of([0.6, 0.6, 0.6], mean=Mean.LOGITS)
    found = fit(held, list("abc"), [2, 1, 1])
    assert not found["taken"] and found["low"] <= 0
    assert found["weights"] == [0.5, 0.25, 0.25] != found["climbed"]
    assert found["fitted"] >= found["nested"], "what was fitted on looks better than it is"


def test_weights_of_a_fold_are_fitted_without_it() -> None:
    """A run that is right in fold 0 alone is of no use to the others: nested it must not win."""
    held = held_of([0.7, 0.0])
    own = held.fold == 0
    held.answers[1][own] = np.eye(4)[held.target[own]]
    terms = held.blend.terms(held.answers)
    without, seen = climb(held, terms, ~own), climb(held, terms, np.ones(300, bool))
    assert without[1] < seen[1]


def test_nested_weights_have_not_seen_their_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    held, seen = held_of([0.5, 0.5]), []

    def first(held: Held, terms: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
        seen.append(np.unique(held.fold[rows]).tolist())
        return np.array([1.0, 0.0])

    monkeypatch.setattr("pipeline.analysis.blend_weights.climb", first)
    fit(held, ["one", "two"], [1, 1])
    every = list(range(5))
    assert seen == [[k for k in every if k != out] for out in every] + [every]

"""Thresholds and cuts: gains that are planted are found, and none where there is none."""

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.decided import decision_in_words, decisions, task_key
from pipeline.base.competition import Competition
from pipeline.inference.metrics import METRICS
from pipeline.inference.thresholds import Decision, Verdict, fit, judge, usual


def judged(target: np.ndarray, prob: np.ndarray, metric: str, kind: str) -> Verdict:
    random, n = np.random.default_rng(1), len(target)
    draws = (random.integers(n, size=n) for _ in range(40))
    start = usual(target, prob, kind)
    return judge(start, target, prob, np.arange(n) % 4, metric, draws)


def chances(n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of one in eight pictures and their chances, whose logits are `shift` too low."""
    random = np.random.default_rng(0)
    target = random.random((n, 3)) < 0.125
    seen = np.where(target, 1, -1) + random.normal(0, 1, (n, 3))
    return target, 1 / (1 + np.exp(-(2 * seen + np.log(1 / 7) - shift)))


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1", "samples_f2"])
def test_a_planted_imbalance_is_made_up_for(metric: str) -> None:
    found = judged(*chances(400, 2.0), metric, "chances")
    assert found.taken and found.low > 0.05
    assert found.nested > found.usual + 0.1
    assert max(found.decision.numbers) < 0.4


def test_thresholds_that_are_right_stay() -> None:
    target, prob = chances(400, 0.0)
    found = judged(target, prob, "micro_f1", "chances")
    assert not found.taken and found.decision.numbers == [0.5] * 3
    assert found.facts["decided"]["usual"] == round(METRICS["micro_f1"](target, prob), 5)


def test_what_is_judged_on_a_fold_has_not_seen_it() -> None:
    """Each fold alone would be right by a threshold that is all wrong for the other."""
    share, target = np.tile([0.2, 0.4, 0.6, 0.8], 20), np.tile([0, 1], 40)
    prob, fold = np.stack([1 - share, share], 1), np.tile([0, 0, 1, 1], 20)
    draws = (np.random.default_rng(1).integers(80, size=80) for _ in range(40))
    found = judge(usual(target, prob, "shares"), target, prob, fold, "accuracy", draws)
    assert found.usual == found.nested == 0.5 and not found.taken


@pytest.mark.parametrize("kind", ["chances", "shares"])
def test_of_very_many_labels_or_classes_none_has_a_number_of_its_own(kind: str) -> None:
    prob, calls = np.zeros((3_000, 2_000), np.float32), []

    def score(target: np.ndarray, prob: np.ndarray) -> float:
        calls.append(len(prob))
        return float(len(calls) == 3)

    found = fit(usual(prob, prob[:1], kind), prob, prob if kind == "chances" else prob + 1, score)
    assert len(calls) == (20 if kind == "chances" else 1)
    assert found.numbers == [0.1 if kind == "chances" else 1.0] * 2_000
    text = decision_in_words(
        {
            "metric": "macro_f1",
            "decision": found.fact,
            "decided": {"usual": 0.1, "nested": 0.2, "low": 0.05, "high": 0.15, "taken": True},
        }
    )
    assert text.endswith("0.1 for all 2,000" if kind == "chances" else "1 for all 2,000")


def test_cuts_follow_a_bent_scale() -> None:
    random = np.random.default_rng(0)
    target = random.integers(1, 6, (160, 1)).astype(float)
    value = 1.5 + 0.5 * target + random.normal(0, 0.15, target.shape)
    found = judged(target, value, "quadratic_kappa", "numbers")
    assert found.taken and found.nested > found.usual + 0.15
    assert found.decision.first == 1 and found.decision.numbers == sorted(found.decision.numbers)
    halfway = 1.5 + 0.5 * np.array([1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(found.decision.numbers, halfway, atol=0.2)
    assert set(found.decision(np.array([[-9.0], [9.0]])).ravel()) == {1, 5}


def test_one_threshold_for_two_classes() -> None:
    target, prob = chances(400, 2.0)
    two = np.stack([1 - prob[:, 0], prob[:, 0]], 1)
    found = judged(target[:, 0].astype(int), two, "f1", "shares")
    assert found.taken and found.decision.numbers[0] < 0.4
    decided = Decision("shares", [0.3])
    assert decided(np.array([[0.6, 0.4], [0.8, 0.2]])).tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(decided.margin(np.array([[0.6, 0.4], [0.8, 0.2]])), [0.1, 0.1])


def test_where_a_false_alarm_costs_more_thresholds_are_higher() -> None:
    target, prob = chances(400, -1.0)
    numbers = {
        metric: np.mean(judged(target, prob, metric, "chances").decision.numbers)
        for metric in ("micro_f0.5", "micro_f2")
    }
    assert numbers["micro_f0.5"] > numbers["micro_f2"] + 0.1
    two = np.stack([1 - prob[:, 0], prob[:, 0]], 1)
    found = judged(target[:, 0].astype(int), two, "f0.5", "shares")
    assert found.taken and found.decision.numbers[0] > 0.6


def test_scales_of_classes_make_up_for_a_rare_one() -> None:
    random, n = np.random.default_rng(0), 600
    target = random.choice(3, n, p=[0.8, 0.15, 0.05])
    logits = np.eye(3)[target] * 2 + np.log([0.8, 0.15, 0.05]) + random.normal(0, 1, (n, 3))
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = judged(target, prob, "macro_f1", "shares")
    assert found.taken and found.nested > found.usual + 0.02
    assert found.decision.kind == "scales" and found.decision.numbers[2] > found.decision.numbers[0]
    decided = Decision("scales", [1.0, 4.0, 1.0])
    row = np.array([[0.6, 0.3, 0.1]])
    np.testing.assert_allclose(decided(row), [[6 / 19, 12 / 19, 1 / 19]])
    np.testing.assert_allclose(decided.margin(row), [6 / 19])
    assert not judged(target, np.eye(3)[target] * 0.7 + 0.1, "macro_f1", "shares").taken


def sure_of(target: np.ndarray, power: float) -> np.ndarray:
    """Shares of three classes that are right as often as they say, raised to a `power`."""
    random = np.random.default_rng(3)
    logits = 2 * np.eye(3)[target] + random.normal(0, 1, (len(target), 3))
    shares = np.exp(power * 2 * logits)
    return shares / shares.sum(1, keepdims=True)


def loss_decided(power: float, task: str, metric: str = "log_loss") -> dict:
    """What becomes of a blend's record where probabilities are asked for."""
    target = np.random.default_rng(5).integers(0, 3, 600)
    prob = sure_of(target, power)
    rules = Competition(name="pets", task=task, metric=metric, submission="probability")
    labels = pd.Series(["abc"[i] for i in target])
    fold = np.arange(600) % 4
    scored = pd.DataFrame({"label": labels, "fold": fold, "group": np.arange(600).astype(str)})
    assert task_key(rules, "probabilities").get("sharpened") is (True if "loss" in metric else None)
    return decisions(scored, prob, ["a", "b", "c"], rules, scored) | {"metric": metric}


def test_a_level_that_the_held_out_fold_lacks_is_answered_too() -> None:
    names = [str(i) for i in range(10)]
    table = pd.DataFrame({"label": [*"0120101243"], "fold": [0] * 6 + [-1] * 4, "group": names})
    prob, rules = np.zeros((6, 1)), Competition(task="ordinal", submission="label")
    made = decisions(table[:6], prob, ["label"], rules, table)["decision"]
    assert made["numbers"] == [0.5, 1.5, 2.5, 3.5]
    assert Decision(**made)(np.array([[3.9]])) == 4


@pytest.mark.parametrize("task", ["classes", "multi-label"])
def test_probabilities_that_are_not_sure_enough_are_sharpened(task: str) -> None:
    found = loss_decided(0.5, task)
    (power,) = found["decision"]["numbers"]
    assert power == pytest.approx(2, rel=0.25) and found["decided"]["taken"]
    worth = found["decided"]
    assert worth["low"] < worth["nested"] - worth["usual"] < worth["high"] < -0.01
    told = decision_in_words(found)
    assert told.startswith("fitted powers give log_loss -0.") and told.endswith(f"s {power:.3g}")


def test_probabilities_that_are_too_sure_stay_as_one_model_gave_them() -> None:
    found = loss_decided(2.0, "classes")
    assert not found["decided"]["taken"]
    prob = np.array([[0.7, 0.3, 0.0]])
    assert Decision(**found["decision"])(prob) is prob
    assert decision_in_words(found).endswith("the usual powers stay")
    assert "decision" not in loss_decided(0.5, "classes", "auc"), "which asks for ranks alone"


def test_a_power_of_shares_and_of_odds() -> None:
    two = np.array([[0.6, 0.4, 0.0]])
    shares, odds = (Decision(f"power of {kind}", [2.0]) for kind in ("shares", "odds"))
    np.testing.assert_allclose(shares(two), [[36 / 52, 16 / 52, 0]])
    np.testing.assert_allclose(shares.margin(two), [20 / 52])
    np.testing.assert_allclose(odds(two), [[36 / 52, 16 / 52, 0]])
    some = np.array([[0.6, 0.3, 0.95]])
    np.testing.assert_allclose(odds(some), [[36 / 52, 9 / 58, 0.9025 / 0.905]])
    np.testing.assert_allclose(odds.margin(some), [0.1])

"""The leaderboard: an offset that luck does not move, forecasts that come true, a better pick."""

import numpy as np
import pytest
from test_paired import evidence, rare

from pipeline.analysis.leaderboard import (
    LUCK,
    Belief,
    believe,
    chance_to_lead,
    fit_offset,
    judge_picks,
    pick_two,
)
from pipeline.inference.metrics import sign_of


def families(n: int, seed: int, each: int = 4) -> np.ndarray:
    """Right or wrong, float [n, 2 * each]: of two families of submissions that are alike within.

    Families and submissions differ a little in how good they are.
    """
    random = np.random.default_rng(seed)
    hard, columns = random.normal(size=n), []
    for _ in range(2):
        good, family = 0.9 + 0.02 * random.normal(), 0.8 * hard + 0.6 * random.normal(size=n)
        for _ in range(each):
            own = 0.985 * family + 0.173 * random.normal(size=n)
            columns.append(own + good + 0.004 * random.normal() > 0)
    return np.stack(columns, 1).astype(float)


def test_one_lucky_submission_does_not_move_the_offset() -> None:
    cv = np.array([0.90, 0.91, 0.92, 0.93, 0.94, 0.95])
    away = np.array([-0.011, -0.009, -0.010, 0.030, -0.012, -0.010])
    found = fit_offset(cv, cv + away)
    assert found.offset == pytest.approx(-0.010)
    assert found.error < 0.001
    assert list(np.abs(found.luck) > LUCK) == [False, False, False, True, False, False]
    assert found.luck[3] > 0


def test_the_error_is_that_of_a_median() -> None:
    random = np.random.default_rng(0)
    fits = [fit_offset(np.zeros(9), 0.004 * random.normal(size=9)) for _ in range(2000)]
    missed = np.std([fit.offset for fit in fits])
    assert np.mean([fit.error for fit in fits]) == pytest.approx(missed, rel=0.15)


def test_four_submissions_are_too_few() -> None:
    assert fit_offset(np.zeros(4), np.zeros(4)) is None


def test_pictures_count_alike_wherever_they_were_seen() -> None:
    belief = Belief(np.array([0.8, 0.7]), np.eye(2) * 4e-4, 300)
    both = belief.updated(np.array([0.9, 0.6]), 100)
    assert both.score.tolist() == pytest.approx([0.825, 0.675])
    assert both.covariance[0, 0] == pytest.approx(3e-4)
    assert both.rows == 400
    one = belief.updated(np.array([np.nan, 0.6]), 100)
    assert one.score.tolist() == pytest.approx([0.8, 0.675])
    assert one.covariance[0, 0] == 4e-4


def test_a_forecast_comes_true_as_often_as_it_says() -> None:
    """Runs of unknown strength; held-out, public and private pictures are drawn from each."""
    random, told, behind = np.random.default_rng(1), [], []
    for _ in range(1500):
        p = 0.8 + 0.02 * random.normal(size=2)  # flat enough beside what 1,000 pictures tell
        held_out, public, private = (random.random((n, 2)) < p for n in (1000, 300, 700))
        here = Belief(held_out.mean(0), np.cov(held_out.T.astype(float)) / 1000, 1000)
        both = here.updated(public.mean(0), 300)
        ahead, last = np.argsort(-public.mean(0))
        told.append(chance_to_lead(both, last, ahead, 700))
        behind.append(private[:, last].mean() > private[:, ahead].mean())
    assert 0.1 < np.mean(told) < 0.4
    assert np.mean(told) == pytest.approx(np.mean(behind), abs=0.04)
    sure = np.array(told) < 0.1
    assert np.mean(np.array(behind)[sure]) < 0.12


def test_what_is_believed_of_runs() -> None:
    right = np.random.default_rng(0).random((2, 500)) < [[0.8], [0.6]]
    belief = believe([evidence(one) for one in right])
    assert belief.score.tolist() == pytest.approx(right.mean(1))
    assert belief.covariance == pytest.approx(np.cov(right.astype(float)) / 500, rel=0.2, abs=3e-5)
    worse = believe([evidence(one, metric="log_loss") for one in right])
    assert worse.score[1] < worse.score[0] < 0, "a loss is signed"
    assert (sign_of("log_loss"), sign_of("auc")) == (-1, 1)


def test_the_best_is_kept_whatever_draws_without_a_positive_say() -> None:
    noise = np.random.default_rng(0).random((3, 200)) / 2
    gains = np.array([0, 0.05, 0.4])[:, None] * (np.arange(200) < 3)
    belief = believe([rare(chance) for chance in noise + gains])
    assert np.isfinite(belief.covariance).all() and belief.score.argmax() == 2
    assert 2 in pick_two(belief, 200)


def test_of_twins_and_a_stranger_the_stranger_is_kept() -> None:
    twins = np.array([[1.0, 0.98, 0.5], [0.98, 1.0, 0.5], [0.5, 0.5, 1.0]]) * 1e-4
    near = Belief(np.array([0.800, 0.799, 0.797]), twins, 1000)
    assert pick_two(near, 700) == (0, 2)
    far = Belief(np.array([0.800, 0.799, 0.740]), twins, 1000)
    assert pick_two(far, 700) == (0, 1)


def test_the_pick_beats_the_two_best_on_halves_never_seen() -> None:
    """1,000 splits in all, of 50 simulated competitions; the error is that over competitions."""
    ids = range(2000)
    gains = np.array([judge_picks(families(2000, seed), ids, splits=20) for seed in range(50)])
    each = gains.mean(1)
    assert each.mean() > 2 * each.std(ddof=1) / len(each) ** 0.5
    assert 0.0003 < each.mean() < 0.01


def test_a_group_is_never_on_both_sides_of_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is right on one of four groups, which a half has whole or not at all."""
    scores, group = [], np.arange(40) % 4

    def first(belief: Belief, rows: int) -> tuple[int, int]:
        scores.extend(belief.score)
        return 0, 1

    monkeypatch.setattr("pipeline.analysis.leaderboard.pick_two", first)
    judge_picks((group[:, None] == [0, 1, 2]).astype(float), group, splits=20)
    assert set(scores) == {0, 0.5}

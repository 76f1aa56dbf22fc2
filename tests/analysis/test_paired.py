"""Two runs on the same pictures: what is luck, what is not, and which pictures changed sides."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from pipeline.analysis.evidence import Evidence
from pipeline.analysis.paired import (
    Paired,
    changed_sides,
    drawn_scores,
    interval,
    is_luck,
    needed_lead,
    paired,
    refuse_foreign,
    resamples,
)
from pipeline.base import plugins
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.forms import in_cells
from pipeline.compare import print_pair
from pipeline.inference.metrics import METRICS


def evidence(
    right: np.ndarray, metric: str = "accuracy", twins: int = 1, name: str = "a"
) -> Evidence:
    """Of two classes; every `twins` rows in turn are one group."""
    n = len(right)
    target = np.arange(n) % 2
    own = np.where(right, 0.9, 0.2)
    prob = np.empty((n, 2), dtype=np.float32)
    prob[np.arange(n), target], prob[np.arange(n), 1 - target] = own, 1 - own
    table = pd.DataFrame(
        {
            "image": [f"{i}.jpg" for i in range(n)],
            "label": np.array(["cat", "dog"])[target],
            "group": np.arange(n) // twins,
            "target": target,
        }
    )
    return Evidence(
        name, None, {"metric": metric}, table, ["cat", "dog"], prob, {}, None, None, None
    )


def pair(n: int, won: int, lost: int, **how: object) -> tuple[Evidence, Evidence]:
    """The last ten rows neither has right; `won` and `lost` rows lie among the first."""
    a, b = np.ones((2, n), dtype=bool)
    a[-10:] = b[-10:] = False
    a[:won] = False
    b[won : won + lost] = False
    return evidence(a, **how), evidence(b, **how, name="b")


@pytest.mark.parametrize("n", [0, 5, 6, 7, 40, 41, 1000])
def test_the_lead_that_is_needed_is_the_least_that_is_rare(n: int) -> None:
    def rare(lead: int) -> bool:
        return binomtest((n - lead) // 2, n).pvalue < 0.05

    leads = [lead for lead in range(n % 2, n + 1, 2) if lead and rare(lead)]
    assert needed_lead(n) == (leads[0] if leads else None)


def test_needed_leads_by_hand() -> None:
    assert [needed_lead(n) for n in (5, 6, 40)] == [None, 6, 14]


def test_won_lost_and_the_interval_of_the_difference() -> None:
    found = paired(*pair(400, won=30, lost=10))
    assert (found.won, found.lost) == (30, 10)
    assert found.p == pytest.approx(binomtest(10, 40).pvalue)
    assert found.delta == pytest.approx(20 / 400)
    deviation = np.sqrt(40 - 20**2 / 400) / 400  # of a paired difference
    assert found.low == pytest.approx(found.delta - 1.96 * deviation, abs=0.2 * deviation)
    assert found.high == pytest.approx(found.delta + 1.96 * deviation, abs=0.2 * deviation)
    back = paired(*reversed(pair(400, won=30, lost=10)))
    assert (back.won, back.delta) == (10, -found.delta)


def test_twins_count_once() -> None:
    alone, twins = (paired(*pair(400, won=30, lost=10, twins=n)) for n in (1, 2))
    wider = (twins.high - twins.low) / (alone.high - alone.low)
    assert wider == pytest.approx(2**0.5, rel=0.15)


def test_equal_runs_differ_by_nothing() -> None:
    found = paired(*pair(50, won=0, lost=0))
    assert found == (0, 0, 1.0, None, 0, 0, 0)


def rare(chance: np.ndarray, positives: int = 3, name: str = "a") -> Evidence:
    """Judged by AUC: the first pictures of 200 are positive; `chance` is what is said of each."""
    one = evidence(np.ones(len(chance), bool), "auc", name=name)
    target = (np.arange(len(chance)) < positives).astype(int)
    prob = np.stack([1 - chance, chance], 1).astype(np.float32)
    return replace(one, table=one.table.assign(target=target), prob=prob)


def test_a_draw_without_a_positive_tells_nothing() -> None:
    chance = np.random.default_rng(0).random(200)
    found = paired(rare(chance), rare(chance, name="b"))
    assert (found.low, found.high) == (0, 0) and is_luck(found, by_lead=False)
    nothing = paired(rare(chance, positives=0), rare(chance[::-1], positives=0))
    assert (nothing.low, nothing.high) == (-np.inf, np.inf) and is_luck(nothing, by_lead=False)


def blended(metric: str) -> dict[str, object]:
    """Facts of a blend of two members, whose settings are its weights."""
    record = {"metric": metric, "key": {"weights": {"a": 1}}}
    return {"record": record, "members": {"one": None, "two": None}}


def of_rows(task: str, metric: str, target: list[list[float]], prob: list[list[float]]) -> Evidence:
    """Of a task whose targets are rows: three pictures, two columns at most."""
    names, n = ["rust", "scab"][: len(target[0])], len(target)
    rows = [f"{i}.jpg" for i in range(n)]
    table = pd.DataFrame({"image": rows, "label": "?", "group": rows})
    table["target"] = in_cells([tuple(row) for row in target], table.image)
    prob = np.array(prob, np.float32)
    about = (table, names, prob, {"one": prob, "two": prob}, None, None, None)
    record = {"metric": metric, "key": {"weights": {"a": 1}}}
    return Evidence("a", None, record, *about, rules=Competition(task=task, metric=metric))


def test_won_are_more_labels_or_what_is_nearer() -> None:
    """By hand: the first picture is won, the second lost, the third is as it was."""
    marks = [[True, False], [True, True], [False, False]]
    chances = [[0.2, 0.9], [0.9, 0.6], [0.1, 0.7]], [[0.6, 0.7], [0.9, 0.2], [0.2, 0.8]]
    a, b = (of_rows("multi-label", "samples_f1", marks, prob) for prob in chances)
    assert a.errors.tolist() == [2, 0, 1] and b.errors.tolist() == [1, 1, 1]
    found = paired(a, b)
    assert (found.won, found.lost) == (1, 1) and found.delta == pytest.approx(4 / 9 - 1 / 3)
    sides = changed_sides(a, b).loc[0]
    assert (sides.label, sides.a, sides.b) == ("rust", "scab", "rust, scab")
    levels = [[3.0], [1.0], [2.0]]
    places = [[4.6], [1.2], [2.9]], [[3.2], [3.1], [2.6]]
    a, b = (of_rows("ordinal", "accuracy", levels, prob) for prob in places)
    assert a.decision.numbers == [1.5, 2.5], "and nothing is over 3, the highest level"
    assert a.errors.tolist() == [0, 0, 1] and b.errors.tolist() == [0, 2, 1]
    a, b = (of_rows("regression", "rmse", levels, prob) for prob in places)
    assert a.errors == pytest.approx([1.6, 0.2, 0.9]) and not a.right.any()
    assert (paired(a, b).won, paired(a, b).lost) == (2, 1)
    ranked = evidence(np.array([True, False, False]))
    ranked = replace(ranked, rules=Competition(k=3, metric="map_at_3"))
    assert ranked.errors == pytest.approx([0, 0.5, 0.5]) and ranked.right.tolist() == [1, 0, 0]


def test_a_pair_speaks_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    places = [[4.6], [1.2], [2.9]], [[3.25], [3.1], [2.6]]
    a, b = (of_rows("regression", "rmse", [[3.0], [1.0], [2.0]], prob) for prob in places)
    print_pair(a, b)
    said = capsys.readouterr().out
    assert "compare   rmse (less is better) +0.2" in said
    assert "3 differ: 2 won (nearer), 1 lost" in said
    assert "by the interval: no more than luck" in said
    better = Paired(10, 12, 0.8, None, 0.1, 0.05, 0.2)  # two large errors mended, many small made
    assert is_luck(better, by_lead=True) and not is_luck(better, by_lead=False)
    assert re.search(r"^0.jpg +3 +4.6 +1.60 → 0.25$", said, re.MULTILINE), said


def test_a_lead_counts_only_for_the_accuracy_of_independent_pictures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    a = evidence(np.zeros(60, bool), "auc")
    target, rare = np.arange(60) % 2, np.random.default_rng(0).uniform(0.1, 0.4, (2, 60))
    rules = Competition(task="binary", metric="auc")

    def ranked(name: str, prob: np.ndarray) -> Evidence:
        both = np.stack([1 - prob, prob], 1).astype(np.float32)
        return replace(a, name=name, prob=both, rules=rules, **blended("auc"))

    print_pair(ranked("a", rare[0]), ranked("b", rare[0] + 0.09 * target))
    said = capsys.readouterr().out
    assert "0 differ: 0 won, 0 lost\n" in said, "no chance is over a half"
    assert "by the interval: more than luck" in said

    mine, yours = np.ones((2, 400), bool)
    mine[:100] = yours[100:150] = False  # of seven patients with 20 pictures each
    pair = (evidence(x, twins=20, name=n) for x, n in ((mine, "a"), (yours, "b")))
    patients = {"rules": Competition(group="patient"), **blended("accuracy")}
    print_pair(*(replace(one, **patients) for one in pair))
    said = capsys.readouterr().out
    assert "150 differ: 100 won, 50 lost\n" in said
    assert "by the interval: no more than luck" in said


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_a_draw_is_scored_like_its_rows(metric: str) -> None:
    a, b = pair(60, won=8, lost=3)
    counts = list(resamples(a.table.group, draws=3, seed=5))
    found = drawn_scores(a.target, [a.prob, b.prob], metric, counts)
    for draw, count in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(60), count)
        again = [METRICS[metric](a.target[rows], one.prob[rows]) for one in (a, b)]
        assert draw.tolist() == pytest.approx(again, abs=1e-6)
    assert len(set(found[:, 0])) == 3


def test_a_draw_that_an_own_metric_refuses_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(target: np.ndarray, prob: np.ndarray) -> float:
        if len(np.unique(target)) < 2:
            raise ValueError("one class")
        return float(prob[:, 1].mean())

    monkeypatch.setitem(plugins.METRICS, "picky", picky)
    target, prob = np.array([0] * 20 + [1]), np.tile([0.4, 0.6], (21, 1))
    counts = [np.ones(21, int), np.r_[np.ones(20, int), 0]]
    found = drawn_scores(target, [prob], "picky", counts)
    assert found[0, 0] == pytest.approx(0.6) and np.isnan(found[1, 0])
    assert np.isfinite(interval("picky", target, prob, np.arange(21))).all()
    with pytest.raises(ValueError, match="one class"):
        drawn_scores(target, [prob], "picky", counts[1:])


def test_draws_are_of_whole_groups() -> None:
    groups = ["a", "b", "a", "c", "b", "d"]
    for count in resamples(groups, draws=20):
        assert count[0] == count[2] and count[1] == count[4]
        assert count[[0, 1, 3, 5]].sum() == 4  # groups


def test_pictures_that_changed_sides_the_clearest_first() -> None:
    a, b = pair(40, won=2, lost=1)
    b.prob[1] = [0.001, 0.999]  # row 1 is a dog
    sides = changed_sides(a, b)
    assert list(sides.index[:1]) == [1] and set(sides.index) == {0, 1, 2}
    assert dict(sides.side) == {0: "won", 1: "won", 2: "lost"}
    row = sides.loc[1]
    assert (row.image, row.label, row.a, row.b) == ("1.jpg", "dog", "cat", "dog")
    assert (row.of_a, row.of_b) == pytest.approx((0.2, 0.999))


def test_other_competitions_folds_and_metrics_cannot_be_compared() -> None:
    def blend(competition: str, folds: str, metric: str = "rmse") -> dict[str, object]:
        return {"key": {"competition": competition, "folds": folds}, "metric": metric}

    refuse_foreign({"a": blend("x", "1"), "b": blend("x", "1")})
    with pytest.raises(UserError, match="b belongs to y, a to x"):
        refuse_foreign({"a": blend("x", "1"), "b": blend("y", "1")})
    with pytest.raises(UserError, match="b was trained on other folds than a"):
        refuse_foreign({"a": blend("x", "1"), "b": blend("x", "2")})
    with pytest.raises(UserError, match="b was scored by mae, a by rmse"):
        refuse_foreign({"a": blend("x", "1"), "b": blend("x", "1", "mae")})

"""`compare` on the command line: the table, a pair, the leaderboard, and what it refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.analysis.evidence import load_evidence
from pipeline.analysis.standings import fitted_gain
from pipeline.base import records
from pipeline.base.runs import cv_of
from pipeline.data.decisions import append, decisions_path, new_line
from pipeline.kaggle.api.upload import COLUMNS, mean_of

Run = Callable[..., str]


@pytest.fixture
def blends(finished: Callable[..., str], run: Run, space: Path) -> Callable[..., None]:
    """Make runs of these seeds, named r0, r1, ..., and the ensemble of each."""

    def make(*seeds: int) -> None:
        for seed in seeds:
            name = finished(f"r{seed}", seed=seed, train={"seed": seed})
            run("ensemble", f"{space}/{name}.yaml", "--no-report")

    return make


def ledger(space: Path, scores: dict[str, tuple[float, ...]], slug: str = "leaves") -> None:
    """name: (CV, public) or (CV, public, OOF); one that is still waited for stands between them."""
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"time": "2026-11-27 10:00:00", "name": name, "slug": slug, "metric": "accuracy"}
        | {"cv": f"{cv:.5f}", "public": f"{public}", "status": "complete", "ref": f"{i}"}
        | {"oof": f"{(oof or [cv])[0]}"}
        for i, (name, (cv, public, *oof)) in enumerate(scores.items())
    ]
    rows.append(rows[0] | {"public": "", "status": "pending"})
    (space / "submissions").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(space / "submissions/ledger.csv", index=False)


def scores_of(space: Path, name: str) -> tuple[float, float]:
    """CV and OOF of a blend as the ledger has them."""
    found = cv_of(records.load(space / f"runs/{name}/test.npz"))
    return float(mean_of(found["folds"])), found["all"]


def test_a_pair_is_held_side_by_side(blends: Callable[..., None], run: Run) -> None:
    blends(0, 1)
    text = run("compare", "r0", "r1")
    won, lost = (int(re.search(rf"(\d+) {word}", text)[1]) for word in ("won", "lost"))
    assert "r1 against r0, on 60 held-out pictures" in text
    assert f"accuracy {(won - lost) / 60:+.4f}, 95 % interval" in text
    assert "setting  train.seed: 0 → 1" in text
    assert f"won by r1: {won}" in text and f"lost by r1: {lost}" in text
    assert text.count("images/") == min(won, 10) + min(lost, 10)
    back = run("compare", "r1", "r0")
    assert f"{lost} won, {won} lost" in back


def test_runs_before_and_after_a_review_share_the_rows_it_left_alone(
    blends: Callable[..., None], run: Run
) -> None:
    blends(0)
    rows = load_evidence("r0").prepared.rows
    first, second = rows[rows.split == "train"].iloc[:2].itertuples()
    other = next(label for label in set(rows.label[rows.split == "train"]) if label != first.label)
    lines = [
        new_line("1", "label", first, first.label, new=other),
        new_line("2", "drop", second, second.label),
    ]
    append(decisions_path("demo"), lines)
    blends(1)
    text = run("compare", "r0", "r1")
    assert "r1 against r0, on 58 held-out pictures" in text
    assert f"{first.id} " not in text and f"{second.id} " not in text


def test_a_blend_is_told_by_its_members(blends: Callable[..., None], run: Run, space: Path) -> None:
    blends(0, 1)
    run("ensemble", f"{space}/r0.yaml", f"{space}/r1.yaml:3", "--name", "[red]both", "--no-report")
    text = run("compare", "r0", "[red]both")
    assert re.search(r"^\[red\]both ", text, re.MULTILINE), "no markup"
    assert "setting  r0: 1.0 → 0.25" in text and "setting  r1: null → 0.75" in text


def test_what_has_nothing_in_common_is_refused_in_one_line(
    blends: Callable[..., None], finished: Callable[..., str], run: Run, space: Path
) -> None:
    assert "python -m pipeline.runs lists them" in run("compare", expect=2)
    blends(0)
    other = finished("other", folds={"n": 3})
    run("ensemble", f"{space}/{other}.yaml", "--no-report")
    for wrong, why in (("other", "other folds than r0"), ("none", "python -m pipeline.ensemble")):
        text = run("compare", "r0", wrong, expect=2)
        assert why in text and text.count("\n") == 1
    assert "did you mean 'other'" in run("compare", "r0", "othr", expect=2)


def test_settings_that_are_retired_are_still_told(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    blends(0, 1)
    for fold in (0, 1):
        model = space / f"runs/r1/fold{fold}/model.safetensors"
        key = records.load(model)["key"]
        key["mix"]["mosaic"] = True
        records.commit(model, key, 0)
    assert "setting  mix.mosaic: null → true" in run("compare", "r0", "r1")


def test_luck_on_the_leaderboard_and_what_to_select(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    assert "no submission has a score" in run("compare", "--lb", expect=2)
    blends(0, 1, 2)
    away = {"r0": -0.01, "r1": -0.012, "x": -0.009, "y": 0.05, "z": -0.011}
    cv = {name: scores_of(space, name)[0] if name[0] == "r" else 0.75 for name in away}
    public = {name: cv[name] + gap for name, gap in away.items()}
    ledger(space, {name: (cv[name], public[name]) for name in away})
    text = run("compare", "--lb")
    assert "leaves, accuracy: 5 submissions with a score" in text
    assert "public = CV -0.0100 ± 0.0008" in text
    assert re.search(r"^y .* luck$", text.replace(" \n", "\n"), re.MULTILINE)
    assert "y is +40" in text and text.count("luck") == 2
    second, first = sorted(("r0", "r1"), key=public.get)
    lead = public[first] - public[second]
    assert f"{first} leads {second} by {lead:.4f} in public" in text
    assert re.search("select r[01] and r[01]: which are the two best", text)
    assert "60 held-out and 6 public pictures" in run("compare", "--lb", "--public", "0.5")
    text = run("compare", "--lb", "r0", "r1", "r2")
    assert "against the two best, on held-out halves" in text and re.search(
        "^r2 .* - ", text, re.MULTILINE
    )
    assert "which two to select: name two, one of which has" in run("compare", "--lb", "r2")
    assert "did you mean 'r0'" in run("compare", "--lb", "r00", "r1", expect=2)


def test_a_public_score_is_that_of_the_blend_as_it_is_and_lies_off_its_oof(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    blends(0, 1)
    cv, oof = scores_of(space, "r0")
    rows = {"r0": (cv, oof + 0.1, oof), **dict.fromkeys("xyz", (0.8, 0.8, 0.7))}
    ledger(space, rows)
    text = run("compare", "--lb", "r0", "r1")
    expected = f"^r0 +{oof:.4f} +{oof + 0.1:.4f} +{oof + 0.1:.4f}"
    assert re.search(expected, text, re.MULTILINE), text
    ledger(space, rows | {"r0": (cv - 0.01, oof + 0.1, oof)})  # of another blend of this name
    text = run("compare", "--lb", "r0", "r1")
    assert re.search(r"^r0 +0\.\d+ +- +0\.\d+", text, re.MULTILINE), text


def test_a_fold_that_was_submitted_alone_is_left_out(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    blends(0, 1)
    run("ensemble", f"{space}/r0.yaml", "--fold", "0", "--no-report")
    ledger(space, {"r0-fold0": (0.7, 0.6), "r0": (0.75, 0.7), "r1": (0.8, 0.7)})
    text = run("compare", "--lb")
    assert "left out: r0-fold0: they held out other pictures" in text
    assert re.search("select r[01] and r[01]", text)


def test_what_was_predicted_anew_since_it_was_sent_is_left_out(
    blends: Callable[..., None], finished: Callable[..., str], run: Run, space: Path
) -> None:
    blends(0, 1, 2)
    ledger(space, dict.fromkeys(("r2", "r0", "r1"), (0.75, 0.7)))
    finished("r2", seed=9, train={"seed": 2})
    text = run("compare", "--lb")
    assert "left out: r2: r2 was trained or predicted anew since" in text
    assert re.search("select r[01] and r[01]", text)
    assert "r2 was trained or predicted anew" in run("compare", "--lb", "r0", "r2", expect=2)


def commit_with(space: Path, **facts: object) -> records.Record:
    """Let the blend r0 have been decided or fitted so; returns its record."""
    made = records.load(path := space / "runs/r0/test.npz")
    known = {"metric": "accuracy", "scores": made["scores"]}
    records.commit(path, made["key"], 0.0, **known, **facts)
    return records.load(path)


def test_what_thresholds_are_worth_on_other_folds_is_no_luck(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    blends(0, 1)
    commit_with(space, decided={"taken": True, "usual": 0.7, "nested": 0.76})
    (cv, oof), (other, _) = scores_of(space, "r0"), scores_of(space, "r1")
    equal = dict.fromkeys("xyz", (0.75, 0.75))
    ledger(space, {"r0": (cv, cv + 0.06, oof), "r1": (other, other), **equal})
    text = run("compare", "--lb")
    assert "r0: its CV as fitted on other folds, +0.0600" in text and "luck" not in text
    assert re.search(f"^r0 +{oof + 0.06:.4f} +{cv + 0.06:.4f} ", text, re.MULTILINE), text


def test_fitted_weights_are_told_by_their_nested_score(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    blends(0, 1)
    fitted = {"taken": True, "fitted": 0.76, "nested": 0.74}
    for some, gain in ((fitted, -0.02), (fitted | {"taken": False}, 0)):
        assert fitted_gain(commit_with(space, fitted=some)) == pytest.approx(gain)
        said = run("compare", "r0", "r1")
        line = "r0: its weights are fitted on these pictures; nested 0.7400"
        assert (line in said) == some["taken"] and "r1: its weights" not in said


def test_a_hidden_test_has_as_many_pictures_as_one_says(
    finished: Callable[..., str], run: Run, space: Path
) -> None:
    (rules := space / "kernels.yaml").write_text("name: demo\ncode_competition: true\n")
    for seed in (0, 1):
        finished(f"r{seed}", seed=seed, train={"seed": seed}, competition=str(rules))
        run("ensemble", f"{space}/r{seed}.yaml", "--no-report")
    ledger(space, {name: (scores_of(space, name)[0], 0.7) for name in ("r0", "r1")})
    text = run("compare", "--lb")
    assert "the hidden test has more pictures than the 12 here: --test" in text
    text = run("compare", "--lb", "--test", "10000")
    assert "60 held-out and 3,000 public pictures" in text and "select r" in text


def test_without_five_scores_there_is_no_offset(
    blends: Callable[..., None], run: Run, space: Path
) -> None:
    ledger(space, {"x": (0.7, 0.6), "y": (0.8, 0.7)})
    text = run("compare", "--lb")
    assert "takes 5 submissions with a score, here are 2" in text
    assert "public = CV" not in text and "select" not in text

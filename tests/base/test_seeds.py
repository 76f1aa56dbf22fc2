"""Seeds are members of a blend, as folds are: a list in the file, or --seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.members import load_members
from pipeline.base import records
from pipeline.base.config import load_experiment
from pipeline.base.derived import each_seed
from pipeline.inference.predictions import Predictions


def test_a_run_for_each_seed(write: Callable[..., str]) -> None:
    one, two = write("one"), write("two", train={"seed": [4, 7, 7]})
    assert each_seed(one, None) == [one]
    assert each_seed(one, [0, 2, 2]) == [one, "one-seed2"]
    assert each_seed(two, None) == [two, "two-seed7"]
    assert each_seed(two, [7, 5]) == ["two-seed7", "two-seed5"]
    assert each_seed("two-seed7", None) == ["two-seed7"], "no list any more"
    seeds = [load_experiment(run).train.seed for run in (one, two, "two-seed7", "two-seed5")]
    assert seeds == [0, 4, 7, 5]
    assert load_experiment(two).key() == load_experiment(write("two", train={"seed": 4})).key()


def test_a_list_of_no_seeds_is_one_line(run: Callable[..., str], write: Callable[..., str]) -> None:
    said = run("train", write(train={"seed": []}), expect=2)
    assert said.count("\n") == 1 and "tiny.yaml: train.seed: it should be a valid integer" in said
    said = run("train", write(train={"seed": [0, "x"]}), expect=2)
    assert said.count("\n") == 1 and "train.seed: it should be a valid integer" in said


def test_all_stages_take_the_seeds_of_the_file(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment, one = split(write(train={"epochs": 1, "seed": [0, 3]})), ("--fold", "1")
    pooled: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "pipeline.launchers.local.train_folds", lambda jobs, *_: pooled.extend(jobs)
    )
    monkeypatch.setattr("pipeline.train.tell_scores", lambda *_: None)
    run("train", experiment)
    assert pooled == [(experiment, 0), (experiment, 1), ("tiny-seed3", 0), ("tiny-seed3", 1)]
    for seed in ("0", "3"):
        run("train", experiment, *one, "--seed", seed)
    said = run("predict", experiment, *one)
    assert "runs/tiny/fold{1}/" in said and "runs/tiny-seed3/fold{1}/" in said
    run("ensemble", experiment, *one, "--no-report")
    run("ensemble", experiment, *one, "--seed", "3", "--no-report")
    run("ensemble", "tiny-seed3", *one, "--no-report")
    folders = {folder.name for folder in (space / "runs").glob("tiny*")}
    assert folders == {"tiny", "tiny-seed3", "tiny-fold1", "tiny-seed3-fold1"}
    blend = records.load(space / "runs/tiny-fold1/test.npz")
    assert blend["key"]["weights"] == {"tiny": 0.5, "tiny-seed3": 0.5}
    parts = [space / f"runs/{name}/fold1/test.none.npz" for name in ("tiny", "tiny-seed3")]
    probs = [Predictions.load(path).prob for path in parts]
    assert np.abs(probs[0] - probs[1]).max() > 1e-3
    whole = Predictions.load(space / "runs/tiny-fold1/test.npz").prob
    np.testing.assert_allclose(whole, np.mean(probs, axis=0), atol=1e-6)
    alone = Predictions.load(space / "runs/tiny-seed3-fold1/test.npz").prob
    np.testing.assert_allclose(alone, probs[1], atol=1e-6)
    halves = load_members([f"{experiment}:3"], None, [1], None, "probabilities")
    assert {half.name: half.weight for half in halves} == {"tiny": 1.5, "tiny-seed3": 1.5}
    twice = run("ensemble", experiment, "tiny-seed3", *one, "--name", "both", expect=2)
    assert "a run stands twice" in twice
    assert "tiny-fold1.csv" in run("submit", "tiny-fold1")

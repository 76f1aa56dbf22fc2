"""The first submission of a competition is one fold's: no stage asks for the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.config import load_experiment
from pipeline.data.splits import load_folds
from pipeline.inference.predictions import Predictions


def test_one_fold_to_its_submission_and_then_all(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    experiment = split(write(train={"epochs": 1}))
    one = ("--fold", "1")
    run("train", experiment, *one)
    said = run("predict", experiment, expect=2)
    assert "fold0/model.safetensors: not trained" in said
    run("predict", experiment, *one)
    assert "or take those there are by --fold" in run("ensemble", experiment, expect=2)
    said = run("ensemble", experiment, *one, "--no-report")
    assert "runs/tiny-fold1/{oof,test}.npz" in said
    table = load_folds(load_experiment(experiment))
    record = records.load(space / "runs/tiny-fold1/test.npz")
    assert record["scores"]["tiny none"]["rows"]["all"] == (table.fold == 1).sum() < len(table)
    oof = Predictions.load(space / "runs/tiny-fold1/oof.npz")
    assert oof.image == list(table.image[table.fold == 1])
    alone = Predictions.load(space / "runs/tiny/fold1/test.none.npz").prob
    blended = Predictions.load(space / "runs/tiny-fold1/test.npz").prob
    np.testing.assert_allclose(blended, alone, atol=1e-6)
    assert "submissions/tiny-fold1.csv" in run("submit", "tiny-fold1")
    assert "tiny-fold1" in run("report", "tiny-fold1")
    assert "tiny-fold1" in run("compare", "tiny-fold1")
    assert len(pd.read_csv(space / "submissions/tiny-fold1.csv")) == 12

    run("train", experiment, "--fold", "0")
    said = run("train", experiment)
    assert "2 folds, accuracy 0." in said and "±" in said and "up to date" in said
    run("predict", experiment)
    run("ensemble", experiment, "--no-report")
    whole = records.load(space / "runs/tiny/test.npz")
    assert "only" not in whole["key"]
    assert whole["scores"]["tiny none"]["rows"]["all"] == len(table)
    assert "up to date" in run("ensemble", experiment, *one, "--no-report")
    said = run("compare", "tiny", "tiny-fold1", expect=2)
    assert "tiny-fold1 was trained on other folds than tiny" in said
    run("ensemble", experiment, *one, "--name", "again", "--no-report")
    assert "0 differ: 0 won, 0 lost" in run("compare", "again", "tiny-fold1")
    run("predict", experiment, *one, "--tta", "hflip")
    said = run("ensemble", experiment, *one, "--tta", "hflip", "--name", "flipped", "--no-report")
    assert "tiny hflip" in said
    flipped = Predictions.load(space / "runs/flipped/test.npz").prob
    assert 1e-6 < np.abs(flipped - blended).max() < 0.5


def test_the_answer_may_have_another_name_than_in_train_csv(
    trained: str, run: Callable[..., str], space: Path
) -> None:
    sample = space / "data" / "demo" / "sample_submission.csv"
    sample.write_text(sample.read_text().replace(",label", ",species", 1))
    run("predict", trained)
    run("ensemble", trained, "--no-report")
    run("submit", "tiny")
    assert list(pd.read_csv(space / "submissions/tiny.csv")) == ["image", "species"]

"""`folds: all`: one model of all pictures, which answers the test and claims no score."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipeline.base import records


def test_all_pictures_are_trained_on_and_none_scores(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    experiment = write(folds="all")
    run("prepare", experiment)
    assert "all 60 images are trained on" in run("folds", experiment)
    assert set(pd.read_csv(space / "folds/demo-all.csv").fold) == {-1}
    assert "up to date" in run("folds", experiment)
    said = run("train", experiment)
    assert re.search(r"epochs, [1-9]\d* steps a fold\n", said), said
    assert said.count("all pictures are trained on") == 2 and "accuracy" not in said
    assert "so there is no score, up to date" in run("train", experiment)
    record = records.load(space / "runs/tiny/fold0/model.safetensors")
    assert record["images"] == {"train": 60, "valid": 0}
    assert record["scores"]["valid_score"] is None and record["scores"]["train_loss"] > 0
    run("predict", experiment)
    assert [path.name for path in (space / "runs/tiny/fold0").glob("*.npz")] == ["test.none.npz"]
    said = run("ensemble", experiment)
    assert "tiny none" in said and "none" in said.splitlines()[1] and "report" not in said
    assert not (space / "runs/tiny/oof.npz").exists()
    assert "up to date" in run("ensemble", experiment)
    said = run("submit", "tiny")
    assert "12 rows, accuracy no CV: all pictures were trained on" in said
    assert "all pictures trained on" in run("runs")
    assert "none is held out" in run("report", "tiny", expect=2)
    other = write("other", folds={"n": 2})
    run("folds", other)
    assert "several runs and several folds" in run(
        "ensemble", experiment, "--weights", "fit", "--name", "x", expect=2
    )
    assert "--fold 1: the folds are 0 to 0" in run("train", experiment, "--fold", "1", expect=2)

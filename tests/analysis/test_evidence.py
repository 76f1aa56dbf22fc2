"""What a finished blend knows of its pictures: each row's own picture, fold and answers."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.evidence import load_current, load_evidence
from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.runs import prediction_path
from pipeline.data.decisions import append, decisions_path, new_line
from pipeline.inference.predictions import Predictions


def test_rows_answers_and_members_belong_together(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    one, two = finished("one"), finished("two", seed=1)
    run("ensemble", f"{space}/{one}.yaml", f"{space}/{two}.yaml:3", "--name", "blend")
    found = load_evidence("blend")
    assert found.prob.shape == (60, 4) and found.test_prob.shape == (12, 4)
    mean = 0.25 * found.members["one"] + 0.75 * found.members["two"]
    np.testing.assert_allclose(found.prob, mean, atol=1e-6)
    rows = found.prepared.rows.loc[found.table.row]
    assert list(rows.id) == list(found.table.image) and set(rows.split) == {"train"}
    assert [found.classes[i] for i in found.target] == list(rows.label)
    assert set(found.prepared.rows.split[found.test.row]) == {"test"}
    assert found.settings.train.epochs == 2 and found.settings.name == "one"
    assert found.right.mean() > 0.7
    assert 0 < found.conflicts.sum() < found.twins.sum() < 60


def test_settings_are_those_of_then_and_folds_are_found_by_what_they_hold(
    run: Callable[..., str], finished: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    name = finished()
    run("ensemble", f"{space}/{name}.yaml")
    write(name, train={"epochs": 9})
    (space / "folds/demo-2-seed42.csv").rename(space / "folds/mine.csv")
    other = pd.read_csv(space / "folds/mine.csv", dtype=str)
    other.assign(fold=(1 - other.fold.astype(int))).to_csv(space / "folds/demo-2.csv", index=False)
    found = load_evidence(f"{space}/{name}.yaml")
    assert found.settings.train.epochs == 2
    assert found.settings.folds.name == "mine"


def test_out_of_fold_answers_of_another_blend_are_not_shown(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    name = finished()
    run("ensemble", f"{space}/{name}.yaml")
    found = Predictions.load(oof := space / f"runs/{name}/oof.npz")
    Predictions(found.image, found.classes, found.prob[::-1]).save(oof)
    with pytest.raises(UserError, match="its out-of-fold answers are lost, or those of another"):
        load_evidence(name)


def test_what_is_missing_is_one_line(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:

    with pytest.raises(UserError, match=r"python -m pipeline\.ensemble tiny"):
        load_evidence("tiny")
    name = finished()
    run("ensemble", f"{space}/{name}.yaml")
    (space / "folds/demo-2-seed42.csv").unlink()
    with pytest.raises(UserError, match="no file holds the folds that tiny was trained on"):
        load_evidence(name)


def test_labels_are_those_decided_and_what_is_left_out_is_gone(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    experiment = f"{space}/{finished()}.yaml"
    run("ensemble", experiment)
    plain = load_current("tiny")
    rows = plain.prepared.rows.loc[plain.table.row].reset_index(drop=True)
    other = next(name for name in plain.classes if name != rows.label[3])
    lines = [
        new_line("1", "label", rows.loc[3], rows.label[3], new=other),
        new_line("2", "drop", rows.loc[5], rows.label[5]),
    ]
    append(decisions_path("demo"), lines)
    for name in ("tiny", experiment):
        with pytest.raises(UserError, match=f"run python -m pipeline.ensemble {name}"):
            load_current(name)
    run("ensemble", experiment)
    mended = load_current("tiny")
    assert len(mended.table) == len(mended.prob) == len(mended.members["tiny"]) == 59
    assert mended.table.label[3] == other == mended.classes[mended.target[3]]
    np.testing.assert_array_equal(mended.prob, np.delete(plain.prob, 5, axis=0))
    assert list(mended.table.row) == list(plain.table.row.drop(5))


def test_what_is_no_longer_what_was_blended_is_not_told_as_if_it_were(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    experiment = f"{space}/{finished()}.yaml"
    run("ensemble", experiment, "--no-report")
    path = prediction_path("tiny", 1, "oof", "none")
    made = records.load(path)
    records.commit(path, made["key"] | {"model": "of before"}, 0.0, folds=made["folds"])
    with pytest.raises(UserError, match="tiny: tiny was trained or predicted anew since"):
        load_evidence("tiny")
    assert re.search(r"^tiny .* \?\s*$", run("compare", "tiny"), re.MULTILINE)
    records.commit(path, made["key"], 0.0, folds=made["folds"])
    assert "test_resnet" in run("compare", "tiny") and load_evidence("tiny")
    finished(seed=5)
    with pytest.raises(UserError, match="tiny: tiny was trained or predicted anew since"):
        load_evidence("tiny")
    run("ensemble", experiment, "--no-report")
    assert load_evidence("tiny")

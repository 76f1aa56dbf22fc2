"""The submission has the sample's form to the letter, or is not written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.base import records
from pipeline.base.cli import UserError, warn_once
from pipeline.base.competition import Competition
from pipeline.inference.predictions import Predictions
from pipeline.inference.submission import audit, fill_sample
from pipeline.submit import hidden_score

PREDICTIONS = Predictions(
    ["a", "b", "c"],
    ["x", "y, (z)"],
    np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]], np.float32),
)
LABELS = Competition(name="demo")
PROBABILITIES = Competition(name="demo", submission="probability")


def text(columns: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=str)


def test_labels_in_the_order_of_the_sample() -> None:
    sample = text({"image": ["c", "a", "b"], "label": ["?", "?", "?"]})
    table = fill_sample(sample, PREDICTIONS, LABELS, "s.csv")
    assert table.to_csv(index=False) == 'image,label\nc,x\na,x\nb,"y, (z)"\n'


def test_a_probability_per_class_in_the_order_of_the_sample() -> None:
    sample = text({"y, (z)": ["0"] * 3, "image": ["b", "c", "a"], "x": ["0"] * 3})
    table = fill_sample(sample, PREDICTIONS, PROBABILITIES, "s.csv")
    assert list(table) == ["y, (z)", "image", "x"]
    assert table.image.tolist() == ["b", "c", "a"]
    np.testing.assert_allclose(table.x, [0.25, 0.6, 0.9], atol=1e-6)
    assert table.x.dtype == np.float32


@pytest.mark.parametrize(
    ("ids", "columns", "said"),
    [
        (["a", "b"], {"label": "?"}, "1 foreign image names: 'c'"),
        (["a", "b", "c", "d"], {"label": "?"}, "no prediction for 1 image names, first 'd'"),
        (["a", "b", "a"], {"label": "?"}, "id 'a' stands twice"),
        (["a", "b", "c"], {"label": "?", "x": "?"}, r"columns \['label', 'x'\], expected one"),
    ],
)
def test_a_sample_that_does_not_fit(ids: list[str], columns: dict, said: str) -> None:
    sample = text({"image": ids, **{name: [v] * len(ids) for name, v in columns.items()}})
    with pytest.raises(UserError, match=said):
        fill_sample(sample, PREDICTIONS, LABELS, "s.csv")


def test_the_audit_names_the_columns_or_the_rows_that_differ() -> None:
    sample = text({"image": ["a", "b"], "predictions": ["?"] * 2})
    with pytest.raises(
        UserError, match=r"columns \['image', 'label'\], the sample has \['image', 'p"
    ):
        audit(sample.rename(columns={"predictions": "label"}), sample, LABELS)
    with pytest.raises(UserError, match=r"shape \(1, 2\), the sample has \(2, 2\)"):
        audit(sample[:1], sample, LABELS)


def test_class_columns_that_do_not_fit() -> None:
    sample = text({"image": ["a", "b", "c"], "x": ["0"] * 3, "w": ["0"] * 3})
    with pytest.raises(UserError, match="no prediction for 1 class names, first 'w'"):
        fill_sample(sample, PREDICTIONS, PROBABILITIES, "s.csv")


def test_nan_is_named() -> None:
    prob = PREDICTIONS.prob.copy()
    prob[1, 0] = np.nan
    broken = Predictions(PREDICTIONS.image, PREDICTIONS.classes, prob)
    sample = text({"image": ["a", "b", "c"], "label": ["?"] * 3})
    with pytest.raises(UserError, match="prediction of 'b' is not a number"):
        fill_sample(sample, broken, LABELS, "s.csv")


def test_hidden_score_is_matched_by_id_and_a_file_that_cannot_score_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "solution.csv"
    path.write_text('image,label\nc,"y, (z)"\nb,"y, (z)"\na,x\n')
    assert hidden_score(path, PREDICTIONS, LABELS, None) == {
        "hidden": pytest.approx(2 / 3, abs=1e-4)
    }
    for rows, told in {
        "a,x\nb,x\nc,q": "'q' does not occur in training",
        "a,x\nb,x\nc,x\na,x": "id 'a' stands twice",
        "a,x\nb,x": "foreign image names: 'c'",
        "a,x\nb,x\nc,x\nd,x": "no prediction for 1 image names, first 'd'",
    }.items():
        path.write_text(f"image,label\n{rows}\n")
        assert hidden_score(path, PREDICTIONS, LABELS, None) == {}
        said = capsys.readouterr().err
        assert str(path) in said
        assert told in said


def test_a_competition_may_share_the_folder_of_another(
    finished: Callable[..., str], run: Callable[..., str], space: Path
) -> None:
    (space / "graded.yaml").write_text("name: demo\nmetric: macro_f1\n")
    name = finished(competition=str(space / "graded.yaml"))
    run("ensemble", f"{space}/{name}.yaml")
    assert "12 rows, macro_f1 CV" in run("submit", name)


def test_scores_of_another_version_are_warned_of_until_they_are_made_anew(
    finished: Callable[..., str], run: Callable[..., str], space: Path
) -> None:
    experiment = f"{space}/{(name := finished())}.yaml"
    run("ensemble", experiment)
    record = records.load(blend := space / f"runs/{name}/test.npz")
    record["key"]["version"] = 1
    records.write_json(records.record_path(blend), record)
    told = f"warning: {blend}: scored by another version; the same python -m pipeline.ensemble"
    assert told in run("submit", name)
    assert "up to date" not in run("ensemble", experiment)
    warn_once.cache_clear()
    assert "another version" not in run("submit", name)


def test_scores_by_another_metric_are_written_anew(
    finished: Callable[..., str], run: Callable[..., str], space: Path
) -> None:
    (rules := space / "graded.yaml").write_text("name: demo\n")
    name = finished(competition=str(rules))
    run("ensemble", f"{space}/{name}.yaml", "--no-report")
    assert "accuracy CV" in run("submit", name) and "up to date" in run("submit", name)
    assert json.loads(run("runs", "--json"))[0]["hidden"] is not None
    rules.write_text("name: demo\nmetric: top_2\n")
    (space / "submissions" / f"{name}.csv").unlink()
    assert "hidden test" not in run("submit", name), "by another metric than the CV beside it"
    rules.write_text("name: demo\n")
    assert "hidden test" in run("submit", name)
    rules.write_text("name: demo\nmetric: top_2\n")
    run("ensemble", f"{space}/{name}.yaml", "--no-report")
    assert json.loads(run("runs", "--json"))[0]["hidden"] is None, "it was of another metric"
    told = run("submit", name)
    assert "top_2 CV" in told and "up to date" not in told


def test_what_was_decided_is_submitted_and_scored(
    finished: Callable[..., str], run: Callable[..., str], space: Path
) -> None:
    run("ensemble", f"{space}/{(name := finished())}.yaml", "--no-report")
    record = records.load(blend := space / f"runs/{name}/test.npz")
    last = Predictions.load(blend).classes[-1]
    decision = {"kind": "scales", "numbers": [1e-9, 1e-9, 1e-9, 1.0], "first": 0}
    records.commit(blend, record.pop("key"), 0.0, **record | {"decision": decision})
    run("submit", name)
    assert set(pd.read_csv(out := space / f"submissions/{name}.csv").label) == {last}
    known = pd.read_csv(space / "data/demo/solution.csv").label
    assert records.load(out)["hidden"] == pytest.approx((known == last).mean(), abs=1e-5)

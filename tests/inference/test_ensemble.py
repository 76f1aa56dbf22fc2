"""Blending: by id and class name, equal weights, honest scores, no mixed folds."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.base import records
from pipeline.base.runs import prediction_path
from pipeline.inference.predictions import Predictions

# image, label, group, fold: c and d are contradictory twins, e and f plain ones
TABLE = pd.DataFrame(
    {
        "image": list("abcdefgh"),
        "label": list("xyxyxxyy"),
        "group": list("abcceegh"),
        "fold": [0, 0, 0, 0, 1, 1, 1, 1],
    }
)


@pytest.fixture
def blend_of(space: Path, write: Callable[..., str]) -> Callable[..., str]:
    """Prediction files of a run, made by hand from {image: probability of x}."""
    (space / "folds").mkdir()
    TABLE.to_csv(space / "folds/demo-2-seed42.csv", index=False)
    from pipeline.data.splits import folds_digest

    def make(name: str, oof: dict[str, float], test: list[dict[str, float]], **kw: object) -> str:
        experiment = write(name)
        for fold in (0, 1):
            held_out = TABLE.image[TABLE.fold == fold]
            for split, answers in (
                ("oof", {i: oof[i] for i in held_out}),
                ("test", test[fold]),
            ):
                x = np.array(list(answers.values()))
                classes = kw.get("classes", ["x", "y"])
                prob = np.stack([x, 1 - x] if classes[0] == "x" else [1 - x, x], 1)
                path = prediction_path(name, fold, split, "none")
                Predictions(list(answers), classes, prob.astype(np.float32)).save(path)
                digest = kw.get("folds", folds_digest(TABLE.astype(str).astype({"fold": int})))
                records.commit(path, {}, time.monotonic(), folds=digest)
        return experiment

    return make


RIGHT = dict(zip("abcdefgh", [0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.6], strict=True))
TESTS = [{"t": 0.9, "u": 0.2}, {"t": 0.5, "u": 0.6}]


def test_test_is_the_mean_of_folds_and_oof_its_own_fold(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    said = run("ensemble", blend_of("one", RIGHT, TESTS))
    test = Predictions.load(space / "runs/one/test.npz")
    assert test.image == ["t", "u"]
    np.testing.assert_allclose(test.prob, [[0.7, 0.3], [0.4, 0.6]], atol=1e-6)
    scores = records.load(space / "runs/one/test.npz")["scores"]["one none"]
    assert scores["folds"] == [0.75, 0.75], "d in fold 0 and h in fold 1 are wrong"
    assert scores["all"] == 0.75
    assert scores["no_twins"] == 0.75  # of a, b, g, h
    assert scores["no_conflicts"] == pytest.approx(5 / 6, abs=1e-4)
    assert scores["rows"] == {"all": 8, "no_twins": 4, "no_conflicts": 6}
    assert "0.7500 ± 0.0000" in said


def test_rows_and_columns_in_another_order_change_nothing(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    run("ensemble", blend_of("one", RIGHT, TESTS))
    other = [{"u": 0.2, "t": 0.9}, {"u": 0.6, "t": 0.5}]
    shuffled = dict(reversed(RIGHT.items()))
    run("ensemble", blend_of("two", shuffled, other, classes=["y", "x"]))
    one, two = (Predictions.load(space / f"runs/{n}/test.npz") for n in ("one", "two"))
    np.testing.assert_allclose(two.aligned(one.image, one.classes), one.prob, atol=1e-6)
    one, two = (records.load(space / f"runs/{n}/test.npz")["scores"] for n in ("one", "two"))
    assert one["one none"] == two["two none"]


def test_weights_of_runs(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    one = blend_of("one", RIGHT, TESTS)
    two = blend_of("two", dict.fromkeys(RIGHT, 0.0), [{"t": 0.0, "u": 0.0}] * 2)
    said = run("ensemble", one, two, "--name", "mix")
    assert "blend" in said
    mix = space / "runs/mix/test.npz"
    np.testing.assert_allclose(Predictions.load(mix).prob[:, 0], [0.35, 0.2], atol=1e-6)
    assert "up to date" in run("ensemble", one, two, "--name", "mix")
    assert "up to date" in run("ensemble", f"{one}:2", f"{two}:2", "--name", "mix")
    assert "up to date" not in run("ensemble", f"{one}:3", two, "--name", "mix")
    np.testing.assert_allclose(Predictions.load(mix).prob[:, 0], [0.525, 0.3], atol=1e-6)
    assert records.load(mix)["scores"]["two none"]["all"] == 0.5


def test_what_is_refused(
    run: Callable[..., str], blend_of: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    one = blend_of("one", RIGHT, TESTS)
    other = blend_of("other", RIGHT, TESTS, folds="elsewhere")
    said = run("ensemble", one, other, "--name", "mix", expect=2)
    assert "other fold 0 was trained on other folds than one" in said
    assert "several runs need a --name" in run("ensemble", one, other, expect=2)
    assert "stands twice" in run("ensemble", one, one, "--name", "mix", expect=2)
    for weight in ("0", "-1", "nan", "two"):
        assert "must be a number over 0" in run("ensemble", f"{one}:{weight}", expect=2)
    prediction_path("one", 1, "oof", "none").unlink()
    assert "fold 1 has no oof predictions with tta none" in run("ensemble", one, expect=2)
    assert not (space / "runs/mix").exists()


def test_missing_image_in_one_file_is_refused(
    run: Callable[..., str], blend_of: Callable[..., str]
) -> None:
    one = blend_of("one", RIGHT, [{"t": 0.9, "u": 0.2}, {"t": 0.5}])
    assert "no prediction for 1 image names, first 'u'" in run("ensemble", one, expect=2)

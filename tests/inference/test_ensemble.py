"""Blending: by id and class name, equal weights, honest scores, no mixed folds."""

import errno
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import pretend_model

from pipeline.analysis.decided import decision_in_words
from pipeline.base import records
from pipeline.base.config import load_experiment
from pipeline.base.runs import model_path, prediction_path
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
                records.commit(path, {"pixels": 1}, time.monotonic(), folds=digest)
        return experiment

    return make


RIGHT = dict(zip("abcdefgh", [0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.6], strict=True))
TESTS = [{"t": 0.9, "u": 0.2}, {"t": 0.5, "u": 0.6}]


def test_answers_of_a_model_that_was_trained_anew_are_not_blended(
    finished: Callable[..., str], run: Callable[..., str], space: Path
) -> None:
    experiment = f"{space}/{finished()}.yaml"
    path = prediction_path("tiny", 1, "test", "none")
    made = records.load(path)
    records.commit(path, made["key"] | {"model": "of before"}, 0.0, folds=made["folds"])
    refused = run("ensemble", experiment, expect=2)
    assert f"{path}: of a model that was trained anew since" in refused
    assert f"run python -m pipeline.predict {experiment}" in refused


def test_folds_that_were_trained_differently_are_no_cv(
    finished: Callable[..., str], run: Callable[..., str], space: Path
) -> None:
    experiment = f"{space}/{finished()}.yaml"
    model = model_path("tiny", 1)
    key = records.load(model)["key"]
    records.commit(model, key | {"train": key["train"] | {"lr": 0.5}}, 0.0)
    refused = run("ensemble", experiment, expect=2)
    assert (
        "tiny: fold 1 was trained with other settings than fold 0: train.lr: 0.001 → 0.5" in refused
    )
    assert "python -m pipeline.train tiny --fold 1 --force" in refused
    run("ensemble", experiment, "--fold", "1", "--no-report")
    records.commit(model, key | {"first_weights": "of fold 1"}, 0.0)
    run("ensemble", experiment, "--no-report")


def test_rules_that_were_mended_are_followed(
    blend_of: Callable[..., str], run: Callable[..., str], space: Path, write: Callable[..., str]
) -> None:
    blend_of("one", RIGHT, TESTS)
    rules = space / "demo.yaml"
    experiment = write("one", competition=str(rules))
    rules.write_text("metric: accuracy\n")
    assert "accuracy" in run("ensemble", experiment)
    assert "up to date" in run("ensemble", experiment)
    rules.write_text("metric: macro_f1\n")
    said = run("ensemble", experiment)
    assert "macro_f1" in said and "up to date" not in said
    first = records.load(space / "runs/one/test.npz")["digest"]
    for positive in ("y", "x"):
        rules.write_text(f"task: binary\npositive: {positive}\n")
        run("ensemble", experiment)
        blended = Predictions.load(space / "runs/one/test.npz")
        assert blended.classes[-1] == positive
    assert records.load(space / "runs/one/test.npz")["digest"] != first


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
    blended = records.load(mix)["scores"]["blend"]
    assert blended["folds"] == [0.75, 1.0] and blended["all"] == 0.875, "h is y by .45"


def test_a_blend_that_a_full_disk_stopped_half_way_is_made_whole(
    run: Callable[..., str],
    blend_of: Callable[..., str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its new out-of-fold answers lay beside test answers and scores of the blend before."""
    one = blend_of("one", RIGHT, TESTS)
    two = blend_of("two", dict.fromkeys(RIGHT, 0.0), [{"t": 0.0, "u": 0.0}] * 2)
    run("ensemble", one, two, "--name", "mix")
    oof, save = space / "runs/mix/oof.npz", Predictions.save
    before = Predictions.load(oof).prob

    def full(self: Predictions, path: Path) -> None:
        if path.name == "test.npz":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "save", full)
        said = run("ensemble", f"{one}:3", two, "--name", "mix", expect=2)
    assert "the disk is full" in said and (Predictions.load(oof).prob != before).any()
    assert "up to date" not in run("ensemble", one, two, "--name", "mix")
    assert (Predictions.load(oof).prob == before).all()


def test_out_of_fold_answers_that_are_lost_or_others_are_made_again(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    one, oof = blend_of("one", RIGHT, TESTS), space / "runs/one/oof.npz"
    run("ensemble", one)
    found = Predictions.load(oof)
    oof.unlink()
    assert "up to date" not in run("ensemble", one)
    Predictions(found.image, found.classes, 1 - found.prob).save(oof)
    assert "up to date" not in run("ensemble", one)
    assert (Predictions.load(oof).prob == found.prob).all()
    assert "up to date" in run("ensemble", one)


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


def test_a_blend_counts_as_its_members(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    one = blend_of("one", RIGHT, TESTS)
    two = blend_of("two", dict.fromkeys(RIGHT, 0.0), [{"t": 0.0, "u": 0.0}] * 2)
    three = blend_of("three", dict.fromkeys(RIGHT, 1.0), [{"t": 1.0, "u": 1.0}] * 2)
    pretend_models(space, "one", "two")
    run("ensemble", f"{one}:3", two, "--name", "inner")
    run("ensemble", three, "inner:2", f"{two}:0.5", "--name", "outer")
    record = records.load(space / "runs/outer/test.npz")
    shares = {"three": 1 / 3.5, "one": 1.5 / 3.5, "two": 1 / 3.5}
    assert record["key"]["weights"] == pytest.approx(shares)
    prob = Predictions.load(space / "runs/outer/test.npz").prob[:, 0]
    np.testing.assert_allclose(prob, (np.array([0.7, 0.4]) * 1.5 + 1) / 3.5, atol=1e-6)
    assert "did you mean 'inner'" in run("ensemble", "iner", one, "--name", "x", expect=2)
    said = run("ensemble", "inner", three, "--mean", "ranks", "--name", "x", expect=2)
    assert "--mean probabilities blends it" in said
    assert "inner is a blend" in run("ensemble", "inner", "--fold", "0", expect=2)
    prediction_path("one", 1, "oof", "none").unlink()
    said = run("ensemble", "inner", three, "--name", "x", expect=2)
    assert "run python -m pipeline.predict one," in said, "a blend is not predicted"


def pretend_models(space: Path, *names: str) -> None:
    for name in names:
        settings = load_experiment(str(space / f"{name}.yaml"))
        for fold in (0, 1):
            pretend_model(settings, fold)


def test_weights_are_fitted_once_and_kept(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    right = {
        image: 0.8 if label == "x" else 0.2
        for image, label in zip(TABLE.image, TABLE.label, strict=True)
    }
    one = blend_of("one", right, TESTS)
    two = blend_of("two", {k: 0.95 if v < 0.5 else 0.05 for k, v in right.items()}, TESTS)
    said = run("ensemble", one, two, "--name", "fit", "--weights", "fit")
    assert "fitted weights: 1.00 one" in said and "nested, 95 % interval" in said
    record = records.load(space / "runs/fit/test.npz")
    assert record["fitted"]["runs"] == ["one", "two"] and record["fitted"]["taken"]
    assert record["key"]["weights"] == {"one": 1.0} and list(record["key"]["members"]) == ["one"]
    again = run("ensemble", one, two, "--name", "fit", "--weights", "fit")
    assert "up to date" in again and "fitted weights: 1.00 one" in again
    plain = run("ensemble", one, two, "--name", "fit")
    assert "up to date" not in plain and "fitted weights" not in plain
    said = run("ensemble", one, "--weights", "fit", expect=2)
    assert "several runs and several folds" in said


def test_weights_are_fitted_anew_to_other_answers(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    good = dict(zip(TABLE.image, TABLE.label.map({"x": 0.8, "y": 0.2}), strict=True))
    bad = {image: 1 - x for image, x in good.items()}
    for answers in ([good, bad], [bad, good]):
        names = ["one", "two"]
        runs = [blend_of(*pair, TESTS) for pair in zip(names, answers, strict=True)]
        run("ensemble", *runs, "--name", "fit", "--weights", "fit")
        weights = records.load(space / "runs/fit/test.npz")["key"]["weights"]
        assert weights == {names[answers.index(good)]: 1.0}


def test_the_mean_that_was_asked_for_is_taken(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    one = blend_of("one", RIGHT, [{"t": 0.9, "u": 0.2}] * 2)
    two = blend_of("two", RIGHT, [{"t": 0.5, "u": 0.5}] * 2)
    run("ensemble", one, two, "--name", "mix", "--mean", "logits")
    prob = Predictions.load(space / "runs/mix/test.npz").prob
    np.testing.assert_allclose(prob[:, 0], [3 / 4, 1 / 3], atol=1e-6)


def given(folder: Path, oof: str, test: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "oof.csv").write_text(oof)
    (folder / "test.csv").write_text(test)
    return f"{folder}/"


GIVEN_OOF = "id,y,fold,x\n" + "".join(
    f"{name},0.7,{fold},0.3\n" for name, fold in zip("hgfedcba", [1] * 4 + [0] * 4, strict=True)
)
GIVEN_TEST = "id,x,y\nu,0.501,0.5\nt,0.25,0.75\n"


def test_answers_of_others_are_a_member(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    one = blend_of("one", RIGHT, TESTS)
    theirs = given(space / "theirs", GIVEN_OOF, GIVEN_TEST)
    said = run("ensemble", one, f"{theirs}:3", "--name", "both")
    assert "theirs given" in said and "warning" not in said
    prob = Predictions.load(space / "runs/both/test.npz")
    np.testing.assert_allclose(prob.prob[:, 0], [0.3625, (0.4 + 3 * 0.5005) / 4], atol=1e-4)
    scores = records.load(space / "runs/both/test.npz")["scores"]["theirs given"]
    assert scores["folds"] == [0.5, 0.5] and scores["all"] == 0.5
    assert "up to date" in run("ensemble", one, f"{theirs}:3", "--name", "both")
    with np.load(space / "runs/theirs/fold0/oof.given.npz") as kept:
        assert kept["image"].tolist() == list("abcd")
    (space / "theirs/test.csv").write_text(GIVEN_TEST.replace("0.25,0.75", "0.75,0.25"))
    assert "up to date" not in run("ensemble", one, f"{theirs}:3", "--name", "both")
    prob = Predictions.load(space / "runs/both/test.npz").prob
    np.testing.assert_allclose(prob[0, 0], (0.7 + 3 * 0.75) / 4, atol=1e-4)
    image, x = list("abcdefgh"), np.full(8, 0.5)
    (space / "theirs/oof.csv").unlink()
    arrays = {"image": image, "classes": ["x", "y"], "prob": np.stack([x, x], 1)}
    np.savez(space / "theirs/oof.npz", **arrays)
    assert "nobody knows that its folds" in run("ensemble", one, f"{theirs}:3", "--name", "both")


def test_a_run_of_ones_own_stays_beside_better_answers_of_others(
    run: Callable[..., str], blend_of: Callable[..., str], space: Path
) -> None:
    x = TABLE.label.map({"x": 0.8, "y": 0.2})
    one = blend_of("one", dict(zip(TABLE.image, 1 - x, strict=True)), TESTS)
    pretend_models(space, "one")
    oof = pd.DataFrame({"id": TABLE.image, "x": x, "y": 1 - x, "fold": TABLE.fold})
    theirs = given(space / "theirs", oof.to_csv(index=False), GIVEN_TEST)
    run("ensemble", one, theirs, "--name", "fit", "--weights", "fit")
    weights = records.load(space / "runs/fit/test.npz")["key"]["weights"]
    assert weights == {"one": 0.0, "theirs": 1.0}
    run("ensemble", "fit", "--name", "again")
    assert records.load(space / "runs/again/test.npz")["key"]["weights"] == weights


@pytest.mark.parametrize(
    ("oof", "test", "said"),
    [
        (GIVEN_OOF.replace("h,0.7", "h,0.8"), GIVEN_TEST, "'h' holds no probabilities; each row"),
        (GIVEN_OOF.replace("h,0.7", "h,x"), GIVEN_TEST, "'h' holds no probabilities"),
        (GIVEN_OOF.replace("h,0.7", "g,0.7"), GIVEN_TEST, "'g' stands twice"),
        (GIVEN_OOF.replace("h,0.7", "z,0.7"), GIVEN_TEST, "no prediction for 1 image names"),
        (GIVEN_OOF, GIVEN_TEST.replace("x,y", "x,z"), "no prediction for 1 class names, first 'y'"),
        (GIVEN_OOF.replace("h,0.7,1", "h,0.7,0"), GIVEN_TEST, "'h' is of fold 0, here of 1"),
    ],
)
def test_answers_of_others_are_checked(
    run: Callable[..., str],
    blend_of: Callable[..., str],
    space: Path,
    oof: str,
    test: str,
    said: str,
) -> None:
    one = blend_of("one", RIGHT, TESTS)
    theirs = given(space / "theirs", oof, test)
    text = run("ensemble", one, theirs, "--name", "both", expect=2)
    assert said in text and "theirs/" in text and text.count("\n") == 1
    assert "name a run of yours before" in run("ensemble", theirs, "--name", "both", expect=2)
    assert not (space / "runs/both").exists()


def test_of_the_thresholds_of_many_labels_the_first_are_told() -> None:
    made = {"kind": "chances", "numbers": [i / 100 for i in range(1, 36)]}
    worth = {"usual": 0.5, "nested": 0.6, "low": 0.05, "high": 0.15, "taken": True}
    told = decision_in_words({"metric": "macro_f1", "decision": made, "decided": worth})
    assert told.endswith("thresholds 0.01, 0.02, 0.03, 0.04, 0.05, 0.06 and 29 more"), told

"""Answers of other people to every task: read as they write them, blended, or refused in a line."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import pretend_run
from tiny_forms import tiny_form

from pipeline.base import records
from pipeline.base.competition import load_competition
from pipeline.base.config import load_experiment
from pipeline.base.runs import prediction_path
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import folds_digest, load_folds
from pipeline.inference.predictions import Predictions

FOLD = [0, 0, 1, 1]
BINARY = {"task": "binary", "label": "label", "positive": "yes", "metric": "log_loss"}
BINARY |= {"submission": "probability"}
JOINED = {"task": "multi-label", "separator": ";", "metric": "log_loss"}
LEVELS = {"task": "ordinal", "label": "stage"}
NUMBERS = {"task": "regression", "label": ["wide", "high"], "metric": "mae"}
# of each: rules, labels of a to d, what we say of every picture, and of what
TASKS: dict[str, tuple[dict[str, Any], list[str], list[float], list[str]]] = {
    "binary": (BINARY, ["yes", "no", "no", "yes"], [0.75, 0.25], ["no", "yes"]),
    "multi-label": (JOINED, ["x;y", "x", "y;x", "y"], [0.5, 0.75], ["x", "y"]),
    "ordinal": (LEVELS, ["0", "2", "2", "0"], [1.25], ["stage"]),
    "regression": (NUMBERS, ["1 10", "3 20", "2 40", "6 80"], [2.0, 30.0], ["wide", "high"]),
}
# theirs: out of fold, in another order and one of them with the labels, and of the test
GIVEN = {
    "binary": (
        "id,label,fold\nd,0.6,1\nc,0.3,1\nb,0.1,0\na,0.8,0\n",
        "id,any name\nu,0.35\nt,0.95\n",
    ),
    "multi-label": (
        "id,y,fold,x\nd,0.9,1,0.2\nc,0.4,1,0.7\nb,0.3,0,0.9\na,0.8,0,0.6\n",
        "id,x,y\nu,0.1,0.35\nt,0.9,0.95\n",
    ),
    "ordinal": (
        "id,fold,label,guess\nd,1,0,0.4\nc,1,2,1.7\nb,0,2,1.4\na,0,0,-0.2\n",
        "id,2,0,1\nu,0.7,0.1,0.2\nt,0.1,0.9,0.0\n",
    ),
    "regression": (
        "id,high,wide,fold\nd,70,5,1\nc,40,4,1\nb,25,3,0\na,10,0,0\n",
        "id,wide,high\nu,-1,35\nt,9,-95\n",
    ),
}
# (ours + 3 theirs) / 4 of t and u, and the score of theirs
BLENDED = {
    "binary": ([[0.225, 0.775], [0.675, 0.325]], -np.log([0.8, 0.9, 0.7, 0.6]).mean()),
    "multi-label": (
        [[0.8, 0.9], [0.2, 0.45]],
        -np.log([0.6, 0.8, 0.9, 0.7, 0.7, 0.4, 0.8, 0.9]).mean(),
    ),
    "ordinal": ([[0.4625], [1.5125]], 1 - 1 / 7),  # of 0 2 2 0 they say 0 1 2 0
    "regression": ([[7.25, -63.75], [-0.25, 33.75]], np.mean([1, 0, 0, 5, 2, 0, 1, 10])),
}
Make = Callable[[str], str]


@pytest.fixture
def ours(space: Path, write: Callable[..., str]) -> Make:
    """A finished run of a task, which says the same of each picture."""

    def make(task: str) -> str:
        rules, labels, prob, classes = TASKS[task]
        (space / "comp.yaml").write_text(yaml.safe_dump(rules))
        experiment = write("one", competition=str(space / "comp.yaml"))
        (space / "folds").mkdir(exist_ok=True)
        table = pd.DataFrame({"image": list("abcd"), "label": labels, "group": list("abcd")})
        table.assign(fold=FOLD).to_csv(space / "folds/comp-2-seed42.csv", index=False)
        settings = load_experiment(experiment)
        kind = load_competition(settings.competition).form.kind
        digest = folds_digest(load_folds(settings))
        for fold in (0, 1):
            for split, ids in (("oof", ["ab", "cd"][fold]), ("test", "tu")):
                path = prediction_path("one", fold, split, "none")
                rows = np.tile(np.array(prob, np.float32), (len(ids), 1))
                Predictions(list(ids), classes, rows, kind=kind).save(path)
                records.commit(path, {"pixels": 1}, time.monotonic(), folds=digest)
        return experiment

    return make


def write_given(folder: Path, oof: str, test: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "oof.csv").write_text(oof)
    (folder / "test.csv").write_text(test)
    return f"{folder}/"


@pytest.mark.parametrize("task", TASKS)
def test_of_every_task(run: Callable[..., str], ours: Make, space: Path, task: str) -> None:
    one, theirs = ours(task), write_given(space / "theirs", *GIVEN[task])
    said = run("ensemble", one, f"{theirs}:3", "--name", "both")
    assert "warning" not in said
    both = Predictions.load(space / "runs/both/test.npz")
    expected, score = BLENDED[task]
    assert both.image == ["t", "u"] and both.classes == TASKS[task][3]
    np.testing.assert_allclose(both.prob, expected, atol=1e-5)
    found = records.load(space / "runs/both/test.npz")["scores"]["theirs given"]
    assert found["all"] == pytest.approx(score, abs=1e-5)
    assert "up to date" in run("ensemble", one, f"{theirs}:3", "--name", "both")


@pytest.mark.parametrize(
    ("task", "was", "put", "said"),
    [
        ("binary", "a,0.8", "a,1.8", "'a' holds no probabilities; each row's probabilities sum"),
        ("binary", GIVEN["binary"][1], "id,no,maybe\nu,0.65,0.35\nt,0.05,0.95\n", "first 'yes'"),
        ("multi-label", "d,0.9", "d,y", "'d' holds no probabilities; each label's is between 0"),
        ("multi-label", "d,0.9", "d,-0.1", "'d' holds no probabilities"),
        ("multi-label", "id,x,y", "id,x,z", "no prediction for 1 class names, first 'y'"),
        ("ordinal", "t,0.1,0.9", "t,0.5,0.9", "'t' holds no numbers; one for each column, or the"),
        ("ordinal", "id,2,0,1", "id,2,0,one", "no prediction for 1 class names, first 'stage'"),
        ("ordinal", "1,0,0.4", "0,0,0.4", "'d' is of fold 0, here of 1"),
        ("regression", "c,40", "c,", "'c' holds no numbers; one for each column"),
        ("regression", "id,high", "id,height", "no prediction for 1 class names, first 'high'"),
    ],
)
def test_what_is_no_answer_is_one_line(
    run: Callable[..., str], ours: Make, space: Path, task: str, was: str, put: str, said: str
) -> None:
    texts = [text.replace(was, put) for text in GIVEN[task]]
    assert texts != list(GIVEN[task])
    theirs = write_given(space / "theirs", *texts)
    told = run("ensemble", ours(task), theirs, "--name", "both", expect=2)
    assert said in told and "theirs/" in told and told.count("\n") == 1


def test_training_pictures_that_are_not_asked_for_are_passed_over(
    run: Callable[..., str], ours: Make, space: Path
) -> None:
    one, (oof, test) = ours("binary"), GIVEN["binary"]
    asked = "ensemble", one, write_given(space / "theirs", oof, test), "--fold", "0"
    run(*asked, "--name", "quick")
    found = records.load(space / "runs/quick/test.npz")["scores"]["theirs given"]
    assert found["all"] == pytest.approx(-np.log([0.8, 0.9]).mean(), abs=1e-5)
    write_given(space / "theirs", f"{oof}e,0.5,0\n", test)
    assert "foreign image names: 'e'" in run(*asked, "--name", "quick", expect=2)


def test_beside_a_model_of_all_pictures_the_test_alone_is_asked_for(
    run: Callable[..., str], ours: Make, write: Callable[..., str], space: Path
) -> None:
    table = load_folds(load_experiment(ours("binary")))
    every = write("every", competition=str(space / "comp.yaml"), folds="all")
    table.assign(fold=-1).to_csv(space / "folds/comp-all.csv", index=False)
    path = prediction_path("every", 0, "test", "none")
    Predictions(["t", "u"], ["no", "yes"], np.array([[0.75, 0.25]] * 2, np.float32)).save(path)
    digest = folds_digest(load_folds(load_experiment(every)))
    records.commit(path, {"pixels": 1}, time.monotonic(), folds=digest)
    theirs = write_given(space / "theirs", *GIVEN["binary"])
    (space / "theirs/oof.csv").unlink()
    run("ensemble", every, f"{theirs}:3", "--name", "both")
    both = Predictions.load(space / "runs/both/test.npz")
    np.testing.assert_allclose(both.prob, BLENDED["binary"][0], atol=1e-5)


def test_an_id_of_several_pictures_is_answered_once(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    rules = tiny_form("studies", space / "data/comp")
    (space / "comp.yaml").write_text(yaml.safe_dump(rules))
    one = write("one", competition=str(space / "comp.yaml"))
    run("prepare", one)
    run("folds", one)
    settings = load_experiment(one)
    pretend_run(settings)
    table, rows = load_folds(settings), load_prepared(settings).rows
    study = rows.set_index("id").study
    folds = table.assign(id=table.image.map(study)).drop_duplicates("id").set_index("id").fold
    test = list(dict.fromkeys(rows.study[rows.split == "test"]))
    share = dict(zip([*folds.index, *test], np.linspace(0.1, 0.9, len(folds) + 5), strict=True))
    theirs = space / "theirs"
    theirs.mkdir()
    for split, ids in (("oof", list(folds.index[::-1])), ("test", test)):
        arrays = {"image": ids, "classes": ["has_cactus"], "prob": [share[name] for name in ids]}
        more = {"fold": folds.loc[ids].to_numpy()} if split == "oof" else {}
        np.savez(theirs / f"{split}.npz", **arrays, **more)
    run("ensemble", one, "--name", "alone")
    assert "warning" not in run("ensemble", one, f"{theirs}/:3", "--name", "both")
    for split in ("oof", "test"):
        alone, both = (
            Predictions.load(space / f"runs/{name}/{split}.npz") for name in ("alone", "both")
        )
        expected = (alone.prob[:, 1] + 3 * np.array([share[name] for name in alone.image])) / 4
        np.testing.assert_allclose(both.aligned(alone.image, ["0", "1"])[:, 1], expected, atol=1e-5)

"""Decisions about labels: no click is lost or counted twice, and they do what they say."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.config import load_experiment
from pipeline.data import decisions
from pipeline.data.decisions import (
    Changes,
    append,
    changes_of,
    load_changes,
    new_line,
    read_log,
    standing,
)
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import check_folds, classes_of, load_folds, split_rows
from pipeline.inference.predictions import Predictions
from pipeline.train import make_trainer
from pipeline.training.keys import train_key

HOSTILE = '=HYPERLINK("x"), <b>\n\'é'
PICTURE = pd.Series({"id": "a.png", "hash": "f00d"})


def line(click: str, action: str = "label", new: str = "oak", **rest: str) -> dict[str, str]:
    return {**new_line(click, action, PICTURE, "elm", new=new), **rest}


def folded(*lines: dict[str, str]) -> list[tuple[str, str]]:
    return [(row.action, row.new) for row in standing(pd.DataFrame(lines)).itertuples()]


def test_each_click_is_a_line_once_and_synced_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "labels" / "x.csv", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    assert append(path, [line("1", new=HOSTILE, id=HOSTILE)]) == 1
    assert path.stat().st_size in synced
    assert append(path, [line("1"), line("2", "keep", "")]) == 1, "an answer that was lost"
    log = read_log(path)
    assert list(log.click) == ["1", "2"] and log.new[0] == log.id[0] == HOSTILE
    assert log.when.str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").all()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.csv"
    append(path, [line("1")])
    before = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(path, [line("2")])
    assert path.read_bytes() == before


def test_what_an_editor_left_without_its_last_newline_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    append(path, [line("1")])
    path.write_text(path.read_text().rstrip("\n"))
    append(path, [line("2")])
    assert list(read_log(path).click) == ["1", "2"]


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    code = (
        "import sys; sys.path.insert(0, 'tests/data')\n"
        "from test_decisions import append, line, Path\n"
        "for i in range(40): append(Path(sys.argv[1]), [line(f'{sys.argv[2]}-{i}')])"
    )
    home = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(path)]
    both = [subprocess.Popen([*command, who], cwd=home) for who in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(read_log(path).click) == sorted(f"{who}-{i}" for who in "ab" for i in range(40))


def test_the_last_holds_and_undo_takes_back_the_one_it_names() -> None:
    first, second = line("1", new="oak"), line("2", new="ash")
    assert folded(first, second) == [("label", "ash")]
    assert folded(first, second, line("3", "undo", "", note="2")) == [("label", "oak")]
    assert folded(first, second, line("3", "undo", "", note="1")) == [("label", "ash")]
    undone = [line(n, "undo", "", note=click) for n, click in [("3", "1"), ("4", "2"), ("5", "2")]]
    assert folded(first, second, *undone) == []
    assert folded(first, *undone, line("6", "drop", "")) == [("drop", "")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("label", "lable"), r"x.csv line 2: action 'lable'; did you mean 'label'\?; expected"),
        (('"oak"', '""'), "line 2: no new label"),
        (('"a.png"', '""'), "line 2: no id"),
        (("pixel_hash", "hash"), "no column 'pixel_hash'"),
    ],
)
def test_what_is_no_decision_is_told_by_line(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    path = tmp_path / "x.csv"
    append(path, [line("1")])
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match=told):
        read_log(path)


def test_only_for_that_id_with_those_pixels(tmp_path: Path) -> None:
    train = pd.DataFrame({"id": ["a", "b", "c"], "hash": ["1", "2", "3"], "label": list("xyx")})
    lines = [("a", "1", "label", "y"), ("b", "9", "drop", ""), ("z", "3", "drop", "")]
    lines += [("b", "2", "keep", ""), ("c", "3", "label", "x")]
    table = pd.DataFrame(lines, columns=["id", "pixel_hash", "action", "new"])
    changes = changes_of(table, train, tmp_path)
    assert changes.label == {"a": "y"} and not changes.dropped
    assert (changes.confirmed, changes.foreign) == (2, 2)
    with pytest.raises(UserError, match="no class 'Y'; did you mean 'y'"):
        changes_of(table.replace("y", "Y"), train, tmp_path)


def test_the_key_tells_decisions_apart_whatever_their_order(tmp_path: Path) -> None:
    label = [{"a": "x"}, {"a": "y"}, {"b": "x"}]
    dropped = [frozenset("a"), frozenset("b")]
    every = [Changes(tmp_path, one) for one in label]
    every += [Changes(tmp_path, dropped=one) for one in dropped]
    assert len({one.key()["labels"] for one in every}) == 5
    both = {"a": "x", "b": "y"}
    one, other = (Changes(tmp_path, some) for some in (both, dict(reversed(both.items()))))
    assert one.key() == other.key()


def test_what_is_decided_of_a_picture_holds_for_its_study(tmp_path: Path) -> None:
    train = pd.DataFrame({"id": ["p/1", "p/2", "q/1", "q/2"], "hash": list("1234")})
    train = train.assign(study=list("ppqq"), label=list("xxyy"))
    lines = [("p/2", "2", "label", "y"), ("q/1", "3", "drop", "")]
    table = pd.DataFrame(lines, columns=["id", "pixel_hash", "action", "new"])
    changes = changes_of(table, train, tmp_path)
    assert changes.label == {"p/1": "y", "p/2": "y"} and changes.dropped == {"q/1", "q/2"}


def test_a_level_that_the_competition_lacks_is_none(tmp_path: Path) -> None:
    train = pd.DataFrame({"id": ["a", "b"], "hash": ["1", "2"], "label": ["0", "4"]})
    form, columns = Competition(task="ordinal").form, ["id", "pixel_hash", "action", "new"]
    table = pd.DataFrame([("a", "1", "label", "4")], columns=columns)
    assert changes_of(table, train, tmp_path, form).label == {"a": "4"}
    with pytest.raises(UserError, match="id 'a': the competition has no level '44'"):
        changes_of(table.replace("4", "44"), train, tmp_path, form)


def decide(experiment: str, action: str, number: int, new: str = "") -> str:
    """About the training picture of that number; returns its id."""
    settings = load_experiment(experiment)
    rows = load_prepared(settings).rows
    picture = rows[rows.split == "train"].iloc[number]
    path = decisions.decisions_path(settings.competition_name)
    append(path, [new_line(f"{action}{number}", action, picture, picture.label, new=new)])
    return picture.id


def test_labels_change_and_the_split_stays(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> None:
    experiment = split(write())
    settings = load_experiment(experiment)
    prepared, table = load_prepared(settings), load_folds(settings)
    before, classes = train_key(settings, 0, prepared, table), classes_of(table)
    decide(experiment, "keep", 3)
    assert train_key(settings, 0, prepared, table) == before, "a confirmed label changes nothing"
    old = table.label[table.image == prepared.rows.id[5]].item()
    new = next(name for name in reversed(classes) if name != old)
    changed, dropped = decide(experiment, "label", 5, new), decide(experiment, "drop", 7)
    key = train_key(settings, 0, prepared, table)
    assert {**key, "labels": None} == {**before, "labels": None}
    assert key["labels"].startswith("1 changed, 1 left out (")
    assert "1 labels changed, 1 pictures left out, 1 confirmed" in run("prepare", experiment)
    assert "up to date" in run("folds", experiment)
    parts = split_rows(prepared.rows, table, classes, 0, load_changes(settings))
    plain = split_rows(prepared.rows, table, classes, 0)
    for now, then in zip(parts, plain, strict=True):
        then = then[then.image != dropped].set_index("image")
        assert list(now.image) == list(then.index) and list(now.row) == list(then.row)
        differ = now.image[now.target.to_numpy() != then.target.to_numpy()]
        assert list(differ) == ([changed] if changed in then.index else [])
    assert list(pd.concat(parts).set_index("image").target[[changed]]) == [classes.index(new)]
    taught = {}
    for fold in (0, 1):
        trainer = make_trainer(settings, fold, prepared, table)
        taught |= dict(zip(trainer.rows, trainer.labels, strict=True))
    assert taught[5] == classes.index(new) and 7 not in taught and len(taught) == 59


def test_a_class_that_would_be_lost_is_named(
    write: Callable[..., str], split: Callable[[str], str]
) -> None:
    experiment = split(write())
    settings = load_experiment(experiment)
    table, rows = load_folds(settings), load_prepared(settings).rows
    label = table.label[0]
    for number in np.flatnonzero(rows.label[rows.split == "train"] == label):
        decide(experiment, "drop", number)
    with pytest.raises(UserError, match=f"demo.csv: leaves no picture of class '{label}'"):
        load_changes(settings).applied(table)
    check_folds(table, 2)


def test_of_two_classes_each_fold_keeps_both(tmp_path: Path) -> None:
    binary, ids = Competition(task="binary").form, list("abcdef")
    table = pd.DataFrame({"image": ids, "label": list("010101"), "group": ids})
    table["fold"] = [0, 0, 1, 1, 2, 2]
    for decided in ({"dropped": frozenset("b")}, {"label": {"b": "0"}}):
        with pytest.raises(UserError, match=r"leaves no '1' in fold 0, .*; undo one"):
            Changes(tmp_path, **decided, form=binary).applied(table)
        Changes(tmp_path, **decided).applied(table)
    odd = table[table.image != "b"]  # cut before that was looked at: nothing to undo
    assert list(Changes(tmp_path, {"c": "1"}, form=binary).applied(odd).label) == list("01101")


def test_a_finished_run_is_refused_and_scored_on_what_was_not_touched(
    run: Callable[..., str], trained: str
) -> None:
    run("predict", trained)
    plain = run("ensemble", trained)
    settings = load_experiment(trained)
    table, classes = load_folds(settings), classes_of(load_folds(settings))
    scored = table[table.fold >= 0]
    oof = Predictions.load(Path(os.environ["RUNS_DIR"], "tiny", "oof.npz"))
    guess = [classes[i] for i in oof.aligned(list(scored.image), classes).argmax(1)]
    right = (scored.label == guess).to_numpy()
    wrong = scored[~right].iloc[0]
    ids = list(load_prepared(settings).rows.id)
    guessed = guess[list(scored.image).index(wrong.image)]
    decide(trained, "label", ids.index(wrong.image), guessed)
    dropped = decide(trained, "drop", ids.index(scored[right].image.iloc[0]))
    told = run("train", trained, "--fold", "0", expect=2)
    assert 'labels: null → "1 changed, 1 left out' in told
    text = run("ensemble", trained)
    rest = ~scored.image.isin([wrong.image, dropped]).to_numpy()
    kept = (scored.image != dropped).to_numpy()
    assert f"{right[rest].mean():.4f}\nensemble  labels: 1 changed, 1 left out" in text
    assert f"  {right.sum() / kept.sum():.4f}  " in text
    assert "untouched" not in plain and f"the other {rest.sum()} pictures" in text
    assert "up to date" in run("ensemble", trained)

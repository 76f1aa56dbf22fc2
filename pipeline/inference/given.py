"""Answers of other people as a run of ours: a folder of {oof,test}.{npz,csv} beside our folds.

They hold a probability for each class or label (of two classes, that of the second will do) or a
number. Its rows are cut into our folds, so that whatever reads a run reads these. That they are out
of fold, and of which folds, nobody can tell but by a column `fold`.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, explain, short, warn
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv
from pipeline.base.forms import OneClass
from pipeline.base.runs import GIVEN, prediction_path
from pipeline.base.settings import checked_name
from pipeline.inference.predictions import Predictions

VERSION = 1
MOST_OFF = 0.01  # that a row's sum may be from 1: others write three digits
Folds = dict[str, str] | None  # of each id
EXPECTED = {
    "shares": "each row's probabilities sum to 1",
    "chances": "each label's is between 0 and 1",
    "numbers": "one for each column, or the shares of all levels, which sum to 1",
}


def take_given(
    folder: Path,
    table: pd.DataFrame,
    folds: list[int],
    classes: list[str],
    test: list[str],
    form: OneClass,
    studies: Callable[[str, list[str]], list[str] | None],
) -> str:
    """Write runs/NAME/foldK/{oof,test}.given.npz unless they are current; returns the name.

    `table` are the rows of our split, whose `folds` are asked for, `test` the ids of our test
    pictures; `studies` are the ids of train's or test's pictures that are answered, where each has
    several. Training pictures that none of the folds holds out are passed over; where they hold out
    nothing, nothing out of fold is asked for. Raises UserError for other ids, classes or folds, and
    rows that hold no predictions of the task.
    """
    name = checked_name(folder.name, str(folder))
    if any((root("runs") / name).glob("fold*/model.safetensors")):
        raise UserError(f"{folder}: a run has this name; rename the folder")
    ours = classes if form.kind == "shares" else [form.kind, *classes]
    held = table[table.fold.isin(folds)]
    for split, ids in (("oof", list(held.image)), ("test", test)):
        if not ids:
            continue
        source = _file_of(folder, split)
        digest, prob = records.file_digest(source), None
        wanted = studies("test" if split == "test" else "train", ids) or ids
        for fold in folds:
            rows = np.arange(len(ids)) if split == "test" else np.flatnonzero(held.fold == fold)
            chosen = [ids[i] for i in rows]
            out = prediction_path(name, fold, split, GIVEN)
            key = {"version": VERSION, "given": digest, "ids": records.digest(chosen)}
            key["classes"] = records.digest(ours)
            if records.is_current(out, key):
                continue
            if prob is None:
                found, theirs = _read(source, classes, form)
                if split == "oof":
                    _check_folds(source, theirs, wanted, held.fold)
                    every = list(table.image)
                    others = {*(studies("train", every) or every)} - {*wanted}
                    kept = [i for i, name in enumerate(found.image) if name not in others]
                    image = [found.image[i] for i in kept]
                    found = replace(found, image=image, prob=found.prob[kept])
                prob = found.aligned(wanted, classes)
            Predictions(chosen, classes, prob[rows], kind=form.kind).save(out)
            records.commit(out, key, time.monotonic())
    return name


def _file_of(folder: Path, split: str) -> Path:
    paths = [folder / f"{split}{end}" for end in (".npz", ".csv")]
    found = [path for path in paths if path.is_file()]
    if len(found) != 1:
        text = "one of them is expected" if found else "neither is there"
        raise UserError(f"{folder}: {paths[0].name} or {paths[1].name}: {text}")
    return found[0]


def _read(path: Path, classes: list[str], form: OneClass) -> tuple[Predictions, Folds]:
    """Raises UserError, in one line, for what holds no predictions of the task."""
    image, given, fold = _from_csv(path, classes) if path.suffix == ".csv" else _from_npz(path)
    given = form.taken(given, classes)
    prob = given.to_numpy(float)
    if form.kind == "shares":
        total = prob.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            prob = np.where(np.abs(total - 1) <= MOST_OFF, prob / total, prob)
    found = Predictions(image, list(given), prob, path, form.kind)
    if problem := found.problem():
        raise UserError(f"{path}: {problem}; {EXPECTED[form.kind]}")
    return found, fold


def _from_csv(path: Path, classes: list[str]) -> tuple[list[str], pd.DataFrame, Folds]:
    """The first column are the ids; `fold` and, beside others, `label` are no answers."""
    given = read_csv(path, [])
    name, *others = given.columns
    others = [column for column in others if column != "fold"]
    if len(others) > 1:
        others = [column for column in others if column != "label" or column in classes]
    fold = dict(zip(given[name], given.fold, strict=True)) if "fold" in given else None
    return list(given[name]), given[others].apply(pd.to_numeric, errors="coerce"), fold


def _from_npz(path: Path) -> tuple[list[str], pd.DataFrame, Folds]:
    """The arrays image, classes, prob and, if there is one, fold."""
    try:
        with np.load(path, allow_pickle=False) as data:
            image, classes = ([str(x) for x in data[part]] for part in ("image", "classes"))
            fold = [str(x) for x in data["fold"]] if "fold" in data else None
            prob = data["prob"].astype(float).reshape(len(image), -1)
            given = pd.DataFrame(prob, columns=classes)
    except Exception as error:  # zip, NumPy and what a foreign file holds: many kinds
        if explain(error):
            raise
        text = f"the arrays image, classes and prob are expected ({short(error, 120)})"
        raise UserError(f"{path}: {text}") from None
    return image, given, fold and dict(zip(image, fold, strict=False))


def _check_folds(path: Path, fold: Folds, image: list[str], ours: pd.Series) -> None:
    if fold is None:
        text = "no `fold`: nobody knows that its folds are ours; of others a score may leak"
        warn("ensemble", f"{path}: {text}")
        return
    for name, k in zip(image, ours, strict=True):
        if name in fold and fold[name] != str(k):
            text = f"{name!r} is of fold {fold[name]}, here of {k}: a blended score would leak"
            raise UserError(f"{path}: {text}")

"""Answers of other people as a run of ours: a folder of {oof,test}.{npz,csv} beside our folds.

Its rows are cut into our folds, so that whatever reads a run reads these. That they are out of
fold, and of which folds, nobody can tell but by a column `fold`.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, explain, short, warn
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv
from pipeline.base.runs import GIVEN, prediction_path
from pipeline.base.settings import checked_name
from pipeline.inference.predictions import Predictions

VERSION = 1
MOST_OFF = 0.01  # that a row's sum may be from 1: others write three digits


def take_given(folder: Path, table: pd.DataFrame, classes: list[str], test: list[str]) -> str:
    """Write runs/NAME/foldK/{oof,test}.given.npz unless they are current; returns the name.

    `table` are the held-out rows of our folds, `test` the ids of our test pictures. Raises
    UserError for other ids or classes, other folds, and rows that hold no probabilities.
    """
    name = checked_name(folder.name, str(folder))
    if any((root("runs") / name).glob("fold*/model.safetensors")):
        raise UserError(f"{folder}: a run has this name; rename the folder")
    for split, ids in (("oof", list(table.image)), ("test", test)):
        source = _file_of(folder, split)
        digest, prob = records.file_digest(source), None
        for fold, rows in table.groupby("fold").indices.items():
            chosen = [ids[i] for i in rows] if split == "oof" else ids
            out = prediction_path(name, fold, split, GIVEN)
            key = {"version": VERSION, "given": digest, "ids": records.digest(chosen)}
            key["classes"] = records.digest(classes)
            if records.is_current(out, key):
                continue
            if prob is None:
                prob = _read(source, table).aligned(ids, classes)
            Predictions(chosen, classes, prob[rows] if split == "oof" else prob).save(out)
            records.commit(out, key, time.monotonic())
    return name


def _file_of(folder: Path, split: str) -> Path:
    paths = [folder / f"{split}{end}" for end in (".npz", ".csv")]
    found = [path for path in paths if path.is_file()]
    if len(found) != 1:
        text = "one of them is expected" if found else "neither is there"
        raise UserError(f"{folder}: {paths[0].name} or {paths[1].name}: {text}")
    return found[0]


def _read(path: Path, table: pd.DataFrame) -> Predictions:
    """Raises UserError, in one line, for what holds no probabilities and for other folds."""
    image, classes, prob, fold = _from_csv(path) if path.suffix == ".csv" else _from_npz(path)
    total = prob.sum(1, keepdims=True)
    close = np.abs(total - 1) <= MOST_OFF
    with np.errstate(invalid="ignore", divide="ignore"):
        found = Predictions(image, classes, np.where(close, prob / total, prob), path)
    if problem := found.problem():
        raise UserError(f"{path}: {problem}; each row's probabilities sum to 1")
    if path.stem == "oof":
        _check_folds(path, fold, table)
    return found


def _from_csv(path: Path) -> tuple[list[str], list[str], np.ndarray, dict[str, str] | None]:
    """The first column are the ids; `fold` and `label` are no classes."""
    given = read_csv(path, [])
    name, *others = given.columns
    classes = [column for column in others if column not in ("fold", "label")]
    numbers = given[classes].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    fold = dict(zip(given[name], given.fold, strict=True)) if "fold" in given else None
    return list(given[name]), classes, numbers, fold


def _from_npz(path: Path) -> tuple[list[str], list[str], np.ndarray, dict[str, str] | None]:
    """The arrays image, classes, prob and, if there is one, fold."""
    try:
        with np.load(path, allow_pickle=False) as data:
            image, classes = ([str(x) for x in data[part]] for part in ("image", "classes"))
            fold = [str(x) for x in data["fold"]] if "fold" in data else None
            prob = data["prob"].astype(float)
    except Exception as error:  # zip, NumPy and what a foreign file holds: many kinds
        if explain(error):
            raise
        text = f"the arrays image, classes and prob are expected ({short(error, 120)})"
        raise UserError(f"{path}: {text}") from None
    return image, classes, prob, fold and dict(zip(image, fold, strict=False))


def _check_folds(path: Path, fold: dict[str, str] | None, table: pd.DataFrame) -> None:
    if fold is None:
        text = "no `fold`: nobody knows that its folds are ours; of others a score may leak"
        warn("ensemble", f"{path}: {text}")
        return
    for image, ours in zip(table.image, table.fold, strict=True):
        if image in fold and fold[image] != str(ours):
            text = f"{image!r} is of fold {fold[image]}, here of {ours}: a blended score would leak"
            raise UserError(f"{path}: {text}")

"""Which task a competition's columns look like, and what of that is unsure."""

from typing import Any

import pandas as pd

from pipeline.base.cli import shown
from pipeline.base.forms import marks_of

SEPARATORS = (",", ";", "|", " ")  # `a, b` holds a space as well
ORDERED = ("grade", "level", "stage", "severity", "diagnosis", "score", "rating")  # in names
GROUPS = ("group", "patient", "subject", "individual", "person", "animal", "case", "study")
GROUPS += ("series", "video", "site", "location", "camera")  # in names, the surest first
FEW = 5  # values that a column must have to be cut into folds
FRACTION = r"-?\d*\.\d*[1-9]\d*"
NUMBER = r"-?\d+\.?\d*"

Settings = dict[str, Any]


def guess_columns(answers: list[str], train: pd.DataFrame, doubts: list[str]) -> Settings:
    """Of several columns that a sample asks for: classes, labels, or numbers."""
    found: Settings = {"submission": "probability", "metric": "log_loss", "label": answers}
    if set(answers) <= set(train):
        marks = marks_of(train[answers])
        if marks.notna().all(axis=None) and (marks.sum(axis=1) != 1).any():
            return found | {"task": "multi-label", "metric": "auc"}
        if marks.isna().any(axis=None) and are_numbers(train[answers].stack()):
            doubts.append(f"task: {shown(answers)} hold numbers: regression?")
            return {"label": answers, "task": "regression", "metric": "rmse"}
        return found
    hits = {name: len(set(train[name]) & set(answers)) for name in train}
    found["label"] = label = max(hits, key=hits.get, default="label")
    if label in train and (mark := separator_of(train[label])):
        found |= {"task": "multi-label", "metric": "auc", "separator": mark}
    return found


def guess_column(label: str, train: pd.Series, sample: pd.Series, doubts: list[str]) -> Settings:
    """Of the one column that a sample asks for: a class, labels, a probability, or a number."""
    values, asked = set(train), sample.str.fullmatch(FRACTION, na=False).any()
    if mark := separator_of(train):
        doubts.append(f"task: are labels of {label} joined by {mark!r}?")
        return {"task": "multi-label", "separator": mark, "metric": "macro_f1"}
    if k := joined_answers(values, sample):
        return {"k": k, "metric": f"map_at_{k}"}
    if values == {"0", "1"} or (len(values) == 2 and asked):
        found = {"task": "binary", "submission": "probability", "metric": "auc"}
        if values != {"0", "1"}:
            found["positive"] = max(values)
            doubts.append(f"positive: which of {sorted(values)} is the probability asked of?")
        elif not asked:
            doubts.append("submission: a probability, or the label 0 or 1?")
        return found
    fractions = train.str.fullmatch(FRACTION, na=False).any()
    if are_numbers(train) and (fractions or asked):
        doubts.append(f"task: {label} holds fractions: regression, or is it a class?")
        return {"task": "regression", "metric": "rmse"}
    if are_numbers(train) and any(word in label.lower() for word in ORDERED):
        doubts.append(f"task: is {label} in order, or are its numbers names of classes?")
        return {"task": "ordinal", "metric": "quadratic_kappa"}
    if asked or fractions:
        doubts.append(f"label: {label} holds fractions, is it a class?")
    return {}


def guess_group(
    train: pd.DataFrame, test: pd.DataFrame, names: list[str], doubts: list[str]
) -> str | None:
    """The column whose rows must stay in one fold, as those of a patient; the test tells, too."""
    named = [name for word in GROUPS for name in names if word in name.lower()]
    found = None
    for name in dict.fromkeys(named):
        values = set(train[name])
        if not 2 < len(values) < len(train):  # yes or no; each row its own
            continue
        if found or len(values) < FEW:
            doubts.append(f"group: or {name}, of {len(values)} values?")
            continue
        found, seen = name, set(test.get(name, [])) & values
        told = f" The test shares {len(seen)} of its {len(values)} values" * (name in test)
        doubts.append(f"group: must rows of one {name} stay in one fold?{told}")
    return found


def joined_answers(classes: set[str], sample: pd.Series) -> int:
    """How many classes, joined by spaces, a sample answers in each row; 0: it is no such list."""
    lists = [value.split() for value in sample]
    lengths = {len(some) for some in lists}
    known = any(part in classes for some in lists for part in some)
    return max(lengths) if len(lengths) == 1 and known and max(lengths) > 1 else 0


def are_numbers(values: pd.Series) -> bool:
    return bool(values.str.fullmatch(NUMBER).all())


def separator_of(values: pd.Series) -> str:
    """Between labels that are joined, or nothing: some stand alone elsewhere.

    So `scab rust` is two labels where `scab` is one, and `quercus alba` a name. A list may stand in
    brackets, its parts in quotes.
    """
    distinct, edges = {value.strip("[]") for value in values}, " '\""
    for mark in SEPARATORS:
        parts = {part.strip(edges) for v in distinct if mark in v for part in v.split(mark)}
        if parts & {v.strip(edges) for v in distinct if mark not in v} - {""}:
            return mark
    return ""

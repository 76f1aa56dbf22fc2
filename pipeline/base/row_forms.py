"""Forms that teach a row of numbers a picture, and the table of all forms by the task's name."""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from pipeline.base.cli import short, shown
from pipeline.base.forms import Binary, OneClass, as_array, class_order, in_cells, joined, marks_of

BINS = 10  # of numbers, over which folds are even
MOST_LEVELS = 100  # above the lowest: a cut is fitted between each two


class Rows(OneClass):
    """What forms share that teach a row of numbers a picture."""

    by_class = False

    def problem(self) -> str:
        return ""

    def misfit(self, train: dict[str, Any], pseudo: set[str]) -> str:
        plain = {"class_weights": ("none",), "sampler": ("none",), "label_smoothing": (0,)}
        plain["conflicts"] = ("keep", "soft")  # no picture has the label of most
        odd = [f"train.{name}" for name, fine in plain.items() if train[name] not in fine]
        if odd:
            return f"{odd[0]}: for one class a picture, not for a task of {self.word}"
        return super().misfit(train, pseudo)


class Labels(Rows):
    """`multi-label`: any number of labels, joined in one column or a column of 0 and 1 for each.

    A head gives the chance of each. A label's text is its parts in order, joined.
    """

    kind, word, losses = "chances", "labels", ("bce", "asymmetric")
    metrics = ("macro_f1", "micro_f1", "samples_f1", "auc", "average_precision", "log_loss")
    metrics += ("accuracy",)

    @cached_property
    def some(self) -> bool:
        """Whether a picture has one at least: an empty cell of joined labels is refused."""
        return isinstance(self.rules.label, str)

    @cached_property
    def joint(self) -> str:
        """Between the parts of a label's text."""
        return self.rules.separator if isinstance(self.rules.label, str) else "|"

    def problem(self) -> str:
        if isinstance(self.rules.label, str):
            return "" if self.rules.separator else "separator: is empty"
        if bad := [name for name in self.rules.label if self.joint in name]:
            return f"label: {shown(bad[0])} may not hold {self.joint!r}"
        return super(Rows, self).problem()

    def labels(self, table: pd.DataFrame) -> pd.Series:
        if isinstance(self.rules.label, str):
            joined = table[self.rules.label].str.replace(r"^\[(.*)\]$", r"\1", regex=True)
            return joined.map(self.canonical)
        marks = marks_of(table[self.rules.label])
        names = np.array(self.rules.label, dtype=object)
        texts = [self.joint.join(names[row]) for row in (marks == 1).to_numpy()]
        return pd.Series(texts, table.index).where(marks.notna().all(axis=1), "\0")

    def fault(self, label: str) -> str:
        if isinstance(self.rules.label, str):
            return super().fault(label)
        names = short(", ".join(self.rules.label))
        return f"expected 0 or 1 in each of {names}" if label == "\0" else ""

    def parts(self, label: str) -> list[str]:
        found = label.split(self.joint)
        if isinstance(self.rules.label, str):  # names of columns are as they stand in the header
            found = [part.strip().strip("'\"") for part in found]
        return [part for part in found if part]

    def canonical(self, label: str) -> str:
        parts = set(self.parts(label))
        own = self.rules.label
        return self.joint.join(
            sorted(parts) if isinstance(own, str) else filter(parts.__contains__, own)
        )

    def classes(self, labels: Iterable[str]) -> list[str]:
        if not isinstance(self.rules.label, str):
            return list(self.rules.label)
        return class_order({part for label in labels for part in self.parts(label)})

    def targets(self, labels: pd.Series, classes: list[str]) -> pd.Series:
        """A tuple of bool for each row."""
        found = [set(self.parts(label)) for label in labels]
        return in_cells([tuple(name in some for name in classes) for some in found], labels)

    def answers(self, prob: np.ndarray, classes: list[str]) -> np.ndarray:
        """Joined labels: those over .5, or the likeliest where none is."""
        if self.rules.submission == "probability":
            return prob
        names, over = np.array(classes, dtype=object), prob >= 0.5
        over[np.arange(len(prob)), prob.argmax(1)] |= ~over.any(1)
        return np.array([[self.joint.join(names[row])] for row in over], dtype=object)


class Numbers(Rows):
    """`regression`: one or several numeric columns. A head gives their values."""

    kind, word, losses = "numbers", "values", ("smooth_l1", "mse")
    metrics = ("rmse", "mae", "r2", "pearson")
    noun: ClassVar[str] = "a number"
    number: ClassVar[str] = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"

    def misfit(self, train: dict[str, Any], pseudo: set[str]) -> str:
        if odd := pseudo & {"threshold", "power"}:
            return f"pseudo.{min(odd)}: of probabilities; of {self.word} each picture's is taught"
        return super().misfit(train, pseudo)

    def labels(self, table: pd.DataFrame) -> pd.Series:
        return joined(table, self.rules.label_columns, " ")

    def fault(self, label: str) -> str:
        texts, columns = label.split(), self.rules.label_columns
        good = len(texts) == len(columns) and all(re.fullmatch(self.number, x) for x in texts)
        if not good or not np.isfinite(list(map(float, texts))).all():
            return f"expected {self.noun} in {short(', '.join(columns))}, not {shown(label)}"
        if self.rules.transform == "none" or min(map(float, texts)) >= 0:
            return ""
        return f"transform: {self.rules.transform} takes numbers from 0 on, not {shown(label)}"

    def parts(self, label: str) -> list[str]:
        return []

    def classes(self, labels: Iterable[str]) -> list[str]:
        return self.rules.label_columns

    def counted(self, n: int) -> str:
        return f"{n} column{'s' * (n > 1)} of {self.word}"

    def targets(self, labels: pd.Series, classes: list[str]) -> pd.Series:
        """A tuple of floats for each row."""
        return in_cells([tuple(map(float, label.split())) for label in labels], labels)

    def strata(self, labels: pd.Series) -> pd.Series:
        """Bins of as many rows each, ten or more, by the mean of the (standardised) columns."""
        values = as_array(self.targets(labels, []))
        spread = values.std(0)
        mean = ((values - values.mean(0)) / np.where(spread > 0, spread, 1)).mean(1)
        rank = pd.Series(mean, labels.index).rank(method="min")
        return (rank * min(BINS, max(1, len(rank) // 10)) / (len(rank) + 1)).astype(int)

    def columns(self, classes: list[str]) -> list[str] | None:
        return classes if len(classes) > 1 else None

    def answers(self, prob: np.ndarray, classes: list[str]) -> np.ndarray:
        return prob


class Levels(Numbers):
    """`ordinal`: whole numbers in order. A head gives a place among them."""

    word, noun = "levels", "a whole number"
    losses = (*Numbers.losses, "cumulative_bce")
    metrics = ("quadratic_kappa", "accuracy")
    number = r"-?\d{1,6}"

    def problem(self) -> str:
        return "" if isinstance(self.rules.label, str) else "task: ordinal has one column as label"

    def futile(self, classes: list[str], labels: pd.Series) -> str:
        low, high = (levels := labels.astype(int)).min(), levels.max()
        if high - low > MOST_LEVELS:
            text = f"task: ordinal takes {MOST_LEVELS} levels, not those from {low} to {high}"
            return f"{text}; mend the row, or take task: regression"
        return super().futile(classes, labels)

    def strata(self, labels: pd.Series) -> pd.Series:
        return labels

    def strangers(self, labels: pd.Series, known: pd.Series) -> np.ndarray:
        return ~labels.astype(int).isin(known.astype(int)).to_numpy()

    def answers(self, prob: np.ndarray, classes: list[str]) -> np.ndarray:
        return np.rint(prob).astype(int)

    def taken(self, given: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
        """Of a share for each level their mean; NaN where these do not sum to 1."""
        if given.shape[1] > 1 and all(re.fullmatch(self.number, name) for name in given):
            total = given.sum(axis=1)
            mean = given @ np.array(given.columns, dtype=float) / total
            given = mean.where(np.isclose(total, 1, atol=0.01)).to_frame()
        return super().taken(given, classes)


FORMS: dict[str, type[OneClass]] = {
    "classes": OneClass,
    "binary": Binary,
    "multi-label": Labels,
    "ordinal": Levels,
    "regression": Numbers,
}

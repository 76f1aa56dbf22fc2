"""What a competition asks of a picture, its `task`, and all that follows from that.

A form reads labels from the CSV and turns them into what a head is taught; it names the numbers
that the head gives (`classes`), and knows which losses, metrics and answers make sense. All else
asks the form; what concerns some tasks alone, as parts of pages and decisions, goes by their names.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from pipeline.base.cli import UserError, short, shown
from pipeline.base.plugins import refuse_unknown

if TYPE_CHECKING:
    from pipeline.base.competition import Competition
    from pipeline.base.config import Experiment

Kind = Literal["shares", "chances", "numbers"]  # sum to 1; each between 0 and 1; any
SCORES = ("log_loss", "balanced_log_loss", "balanced_accuracy", "mcc")  # of one class a picture


class OneClass:
    """`classes`: one of many. A head gives shares, which sum to 1."""

    kind: ClassVar[Kind] = "shares"
    word: ClassVar[str] = "classes"
    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "bce", "focal")
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "auc", *SCORES, "macro_f1")
    metrics += ("quadratic_kappa", "map_at_5", "top_5")
    some: bool = False  # of labels, a picture has one at least
    by_class: ClassVar[bool] = True  # a picture is of one class: samplers rest on it

    def __init__(self, rules: "Competition | None" = None):
        self.rules = rules

    def problem(self) -> str:
        """Why the competition's settings do not go together, or nothing."""
        if self.rules.submission == "label" and not isinstance(self.rules.label, str):
            return "a list as label needs submission: probability"
        several = self.rules.k > 1 and self.rules.submission == "probability"
        return "k: is of submission: label" if several else ""

    def misfit(self, train: dict[str, Any], pseudo: set[str]) -> str:
        """Which of an experiment's settings (`pseudo`: those that are set) makes no sense."""
        if train["loss"] in self.losses:
            return ""
        text = f"a task of {self.word} takes {' or '.join(self.losses)}"
        return f"train.loss: {train['loss']}: {text}"

    def labels(self, table: pd.DataFrame) -> pd.Series:
        """The label of each row as a text: a column, or the name of the column that holds its 1.

        It is empty where no column or several hold a 1.
        """
        if isinstance(self.rules.label, str):
            return table[self.rules.label]
        marks = marks_of(table[self.rules.label])
        good = marks.notna().all(axis=1) & (marks.sum(axis=1) == 1)
        return marks.fillna(0).idxmax(axis=1).where(good, "")

    def fault(self, label: str) -> str:
        """What is wrong with the label of a row, or nothing."""
        if label.strip():
            return ""
        if isinstance(self.rules.label, str):
            return "empty label; give one or drop the row"
        return f"expected a 1 and else 0 among {short(', '.join(self.rules.label))}"

    def parts(self, label: str) -> list[str]:
        """The classes that a label names: of each, every fold must see some pictures."""
        return [label]

    def strangers(self, labels: pd.Series, known: pd.Series) -> np.ndarray:
        """bool [n], which labels name what none of the `known` ones does."""
        classes = set(self.classes(known))
        return np.array([not classes.issuperset(self.parts(label)) for label in labels], bool)

    def canonical(self, label: str) -> str:
        """The text that a label which a person gave has among those of `labels`."""
        return label

    def classes(self, labels: Iterable[str]) -> list[str]:
        """What the numbers of a row of predictions are called, in their order."""
        return class_order(set(labels))

    def counted(self, n: int) -> str:
        """So many `classes`, in words."""
        return f"{n} {self.word}"

    def futile(self, classes: list[str], labels: pd.Series) -> str:
        """Why there is nothing to learn from such labels, or nothing."""
        if labels.nunique() == 1:
            return f"all rows are labelled {shown(labels.iloc[0])}: there is nothing to tell apart"
        if self.rules.k == 1:
            return ""
        if len(classes) < self.rules.k:
            return f"k: {self.rules.k} classes are to be answered, and there are {len(classes)}"
        spaced = next((name for name in classes if len(name.split()) > 1), "")
        return f"k: answers are joined by spaces, and one is in {shown(spaced)}" * bool(spaced)

    def targets(self, labels: pd.Series, classes: list[str]) -> pd.Series:
        """What a head is taught: the number of the class; NaN for a label that is none.

        Other forms: a tuple for each row, see `as_array`.
        """
        return labels.map({label: i for i, label in enumerate(classes)})

    def strata(self, labels: pd.Series) -> pd.Series:
        """Of what every fold shall have its share."""
        return labels

    def columns(self, classes: list[str]) -> list[str] | None:
        """The columns that a sample must have beside its id; None: one, of any name."""
        return classes if self.rules.submission == "probability" else [self.rules.label]

    def answers(self, prob: np.ndarray, classes: list[str]) -> np.ndarray:
        """What is written into the sample's columns [n, columns], of decided numbers."""
        if self.rules.submission == "probability":
            return prob
        best = np.argsort(-prob, axis=1, kind="stable")[:, : self.rules.k]
        return np.array([[" ".join(row)] for row in np.array(classes)[best]], dtype=object)

    def taken(self, given: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
        """Columns of other people as ours: a single one has any name, of two classes the second."""
        if given.shape[1] != 1 or self.columns(classes) is not None:
            return given
        return pd.DataFrame(np.hstack([1 - given] * (len(classes) - 1) + [given]), columns=classes)


ONE_CLASS = OneClass()  # where no competition's settings are asked for


class Binary(OneClass):
    """`binary`: two classes, of which the `positive` one is asked for."""

    metrics = ("auc", "accuracy", *SCORES, "f1", "average_precision")

    def problem(self) -> str:
        return "" if isinstance(self.rules.label, str) else "task: binary has one column as label"

    def classes(self, labels: Iterable[str]) -> list[str]:
        """The positive one last."""
        return sorted(class_order(set(labels)), key=lambda label: label == self.rules.positive)

    def futile(self, classes: list[str], labels: pd.Series) -> str:
        if len(classes) != 2:
            return f"task: binary is of two labels, there are {len(classes)}: {shown(classes)}"
        if classes[1] != self.rules.positive:
            return f"no label is {shown(self.rules.positive)}: set positive: to one of {classes}"
        return ""

    def columns(self, classes: list[str]) -> list[str] | None:
        return None

    def answers(self, prob: np.ndarray, classes: list[str]) -> np.ndarray:
        if self.rules.submission == "probability":
            return prob[:, 1:]
        return super().answers(prob, classes)


def stem_of(metric: str) -> str:
    """A metric's name with # for the number that is its k or beta: `f#` of `f0.5`."""
    return parts_of(metric)[0]


def parts_of(metric: str) -> tuple[str, str]:
    """That name, and the number or nothing: `f#` and `0.5`."""
    found = re.fullmatch(r"(map_at_|top_)[1-9]\d*|(.+_)?f(?![0.]*$)\d+(\.\d+)?", metric)
    if not found:
        return metric.strip("#"), ""
    stem = metric.rstrip(".0123456789")
    return f"{stem}#", metric.removeprefix(stem)


def suited(experiment: "Experiment", form: OneClass) -> "Experiment":
    """With the loss of its competition's task, unless it names one, and what suits it alone.

    Raises UserError for a setting that makes no sense for the task.
    """
    train = experiment.train
    if "loss" not in train.model_fields_set:
        train = train.model_copy(update={"loss": form.losses[0]})
    own, known = experiment.own("loss"), dict(train)
    if train.loss in own:
        known["loss"] = form.losses[0]
    pseudo = experiment.pseudo.model_fields_set if experiment.pseudo else set()
    if problem := form.misfit(known, pseudo):
        told = f"; of your plugins: {', '.join(own)}" * bool(own)
        raise UserError(f"{experiment.name}: {problem}{told}")
    where, heads = f"{experiment.name}: model.classifier", experiment.own("head")
    refuse_unknown(where, experiment.model.classifier, ["linear", *heads])
    how = experiment.model  # of blocks alone the head has a kernel
    kernel = how.kernel and how.features == "blocks" and how.classifier == "linear"
    ends = train.epochs > 0 and (kernel or train.refit)  # in a head that is fitted
    scale = how.test_scale if ends else 1.0
    model = how.model_copy(update={"kernel": kernel, "test_scale": scale})
    return experiment.model_copy(update={"train": train, "model": model})


def marks_of(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of 0 and 1 as numbers; NaN for what is neither."""
    marks = table.apply(pd.to_numeric, errors="coerce")
    return marks.where(marks.isin([0, 1]))


def joined(table: pd.DataFrame, columns: list[str], mark: str) -> pd.Series:
    """The texts of some columns, row by row, in one."""
    return pd.Series([mark.join(row) for row in table[columns].to_numpy()], table.index, dtype=str)


def in_cells(rows: list[tuple[float, ...]], like: pd.Series) -> pd.Series:
    """A tuple in each cell, which can be compared and counted as a label can."""
    return pd.Series(rows, like.index, dtype=object)


def as_array(target: pd.Series) -> np.ndarray:
    """A form's targets: int [n], or bool or float [n, classes]."""
    return np.array(target.tolist()) if target.dtype == object else target.to_numpy()


def class_order(labels: set[str]) -> list[str]:
    """Class names in the order of the probability columns: numbers by value, then by text."""
    numeric = all(re.fullmatch(r"-?\d+", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numeric else sorted(labels)

"""Prediction files: probabilities that carry their own image ids and class names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, explain, short
from pipeline.base.forms import Kind
from pipeline.base.runs import prediction_path

MOST_OFF = 1e-3  # that a row's sum may be from 1: roundings


@dataclass(frozen=True)
class Predictions:
    """`prob` is float32 [len(image), len(classes)]: shares, whose rows sum to 1, or another kind.

    `path`: where they lay.
    """

    image: list[str]
    classes: list[str]
    prob: np.ndarray
    path: Path | None = None
    kind: Kind = "shares"

    def save(self, path: Path) -> None:
        with records.writing(path) as tmp, tmp.open("wb") as file:
            more = {} if self.kind == "shares" else {"kind": self.kind}
            np.savez(file, image=self.image, classes=self.classes, prob=self.prob, **more)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises UserError for a file that `save` did not write, or not this one."""
        try:
            with np.load(path, allow_pickle=False) as data:
                image, classes = data["image"].tolist(), data["classes"].tolist()
                kind = str(data["kind"]) if "kind" in data else "shares"
                found = cls(image, classes, data["prob"], path, kind)
            problem = found.problem()
        except Exception as error:  # zip, NumPy and what a foreign file holds: many kinds
            if explain(error):  # no file, memory, a disk: there is nothing to delete
                raise
            problem = f"no prediction file ({short(error, 120)})"
        record = records.load(path)
        if not problem and record and not records.is_intact(path, record):
            problem = "not the predictions that its record describes"
        if problem:
            raise UserError(f"{path}: {problem}; delete it and make it anew")
        return found

    def problem(self) -> str:
        """What is wrong with the numbers or names, or nothing."""
        if self.prob.shape != (len(self.image), len(self.classes)):
            return f"{self.prob.shape} numbers for {len(self.image)} ids, {len(self.classes)} names"
        for names in (self.image, self.classes):
            if len(set(names)) < len(names):
                return f"{next(name for name in names if names.count(name) > 1)!r} stands twice"
        good = np.isfinite(self.prob).all(1)
        if self.kind != "numbers":
            good &= (self.prob >= 0).all(1) & (self.prob <= 1 + MOST_OFF).all(1)
        if self.kind == "shares":
            good &= np.abs(self.prob.sum(1) - 1) < MOST_OFF
        if not good.all():
            what = "numbers" if self.kind == "numbers" else "probabilities"
            return f"the row of {self.image[int(good.argmin())]!r} holds no {what}"
        return ""

    def aligned(self, image: list[str], classes: list[str]) -> np.ndarray:
        """`prob` with rows and columns in the order asked for.

        Raises UserError when ids or classes differ: position is never trusted.
        """
        where, found = f"{self.path}: " if self.path else "", []
        for kind, have, want in (("image", self.image, image), ("class", self.classes, classes)):
            at = {name: i for i, name in enumerate(have)}
            if gone := [name for name in want if name not in at]:
                text = f"no prediction for {len(gone)} {kind} names, first {gone[0]!r}"
                raise UserError(where + text)
            if extra := sorted(set(have) - set(want)):
                text = f"predictions for {len(extra)} foreign {kind} names: {extra[0]!r}"
                raise UserError(where + text)
            found.append([at[name] for name in want])
        return self.prob[np.ix_(*found)]


def out_of_fold(run: str, views: str, scored: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """A run's probabilities float32 [len(scored), classes], each row by the one model of its fold,
    which has not seen it. Raises UserError for predictions that are gone or of other pictures."""
    prob = np.empty((len(scored), len(classes)), dtype=np.float32)
    for fold, rows in scored.groupby("fold").indices.items():
        found = Predictions.load(prediction_path(run, fold, "oof", views))
        prob[rows] = found.aligned(list(scored.image.iloc[rows]), classes)
    return prob

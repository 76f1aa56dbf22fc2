"""Prediction files: probabilities that carry their own image ids and class names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from pipeline.parts import records
from pipeline.parts.cli import UserError
from pipeline.parts.config import root

Split = Literal["oof", "test"]


@dataclass(frozen=True)
class Predictions:
    """`prob` is float32 [len(image), len(classes)]; its rows sum to 1."""

    image: list[str]
    classes: list[str]
    prob: np.ndarray

    def save(self, path: Path) -> None:
        with records.writing(path) as tmp, tmp.open("wb") as file:
            np.savez(file, image=self.image, classes=self.classes, prob=self.prob)

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as data:
            image, classes = data["image"].tolist(), data["classes"].tolist()
            return cls(image, classes, data["prob"])

    def aligned(self, image: list[str], classes: list[str]) -> np.ndarray:
        """`prob` with rows and columns in the order asked for.

        Raises UserError when ids or classes differ: position is never trusted.
        """
        row = {name: i for i, name in enumerate(self.image)}
        column = {name: i for i, name in enumerate(self.classes)}
        for kind, have, want in (("image", row, image), ("class", column, classes)):
            if gone := [name for name in want if name not in have]:
                raise UserError(f"no prediction for {len(gone)} {kind} names, first {gone[0]!r}")
            if len(have) != len(set(want)):
                extra = sorted(set(have) - set(want))
                raise UserError(f"predictions for {len(extra)} foreign {kind} names: {extra[0]!r}")
        rows, columns = [row[name] for name in image], [column[name] for name in classes]
        return self.prob[rows][:, columns]


def prediction_path(run: str, fold: int, split: Split, looks: str) -> Path:
    """`looks` is the name of an experiment's predict settings: `d4`, `d4-128-160`."""
    return root("runs") / run / f"fold{fold}" / f"{split}.{looks}.npz"


def spread(scores: list[float]) -> str:
    """Mean and sample standard deviation over folds; of a single one just its score."""
    if len(scores) == 1:
        return f"{scores[0]:.4f}"
    return f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"

"""From a regression's answers to logits, and what these cost, for each kind of labels."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

RARE = 1e-4  # share of a label that no picture has, or all
USUAL = 10  # pictures
STEPS = 15
# by the letter of a dtype: classes [n], labels [n, columns], standardised numbers [n, columns]
LOSSES = {"i": F.cross_entropy, "b": F.binary_cross_entropy_with_logits, "f": F.mse_loss}
SCALES = {"i": np.geomspace(2, 64, 11), "b": np.geomspace(0.1, 10, 15), "f": np.ones(1)}


class Calibrated(NamedTuple):
    """How answers less their mean become logits: times `slope`, plus `offset`."""

    loss: float
    scale: float
    slope: torch.Tensor  # [] or, of labels, [columns]
    offset: torch.Tensor  # [] or [columns]

    def logits(self, answers: torch.Tensor) -> torch.Tensor:
        return (answers * self.slope + self.offset).to(answers.dtype)


def as_rows(labels: np.ndarray, columns: int) -> torch.Tensor:
    """What is regressed, double [n, columns]: of classes a 1 each, labels and numbers as such."""
    rows = torch.from_numpy(labels)
    return (F.one_hot(rows, columns) if labels.ndim == 1 else rows).double()


def calibrate(
    kind: str,
    answers: torch.Tensor,
    target: torch.Tensor,
    mean: torch.Tensor,
    scale: float | None = None,
) -> Calibrated:
    """The line of the lowest loss over the scales of a kind, or of the one that is given.

    Of answers [n, columns], which are less the `mean` [columns] of all rows, beside the rows that
    would have been right.
    """
    tried = []
    for each in SCALES[kind] if scale is None else [scale]:
        slope, offset = slope_of(kind, each, mean), mean if kind == "f" else torch.tensor(0.0)
        if kind == "b":
            offset = fitted_offset(answers * slope, target, mean)
        line = Calibrated(0.0, float(each), slope, offset)
        loss = LOSSES[kind](line.logits(answers), target.to(answers.dtype)).item()
        tried.append(line._replace(loss=loss))
    return min(tried, key=lambda line: line.loss)


def slope_of(kind: str, scale: float, mean: torch.Tensor) -> torch.Tensor:
    """[] or, of labels, [columns]: around its mean m a chance is its log odds times m (1 - m)."""
    usual = mean.clamp(RARE, 1 - RARE)
    return scale / (usual * (1 - usual)) if kind == "b" else torch.tensor(scale)


def fitted_offset(logits: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """What to add [columns] so that chances are on average those of the labels; by Newton.

    A few more pictures of the usual `mean` are thought of, for labels that are rare here.
    """
    mean, n = mean.clamp(RARE, 1 - RARE), len(target)
    wanted = (target.sum(0) + USUAL * mean) / (n + USUAL)
    offset = torch.logit(mean)
    for _ in range(STEPS):
        chance = torch.sigmoid(logits + offset)
        slope = (chance * (1 - chance)).mean(0).clamp(min=1e-6)
        offset = offset - ((chance.mean(0) - wanted) / slope).clamp(-1, 1)
    return offset

"""The closed form of heads that answer labels or numbers: ridge regression, a row for each.

It stands on the same sums as the discriminant; the products of the features are shared.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.training.discriminant import (
    HELD_OUT,
    ClassMoments,
    Fitted,
    LinearHead,
    downhill,
    solve_shrunk,
    summed,
)

RARE = 1e-4  # share of a label that no picture has, or all
USUAL = 10  # pictures
STEPS = 15
SCALES_OF_LABELS = np.geomspace(0.1, 10, 15)


class Settled(NamedTuple):
    loss: float
    shrinkage: float
    scale: float
    offset: torch.Tensor | None  # [classes], of labels


def ridge(
    features: torch.Tensor, labels: np.ndarray, classes: int, like: Fitted | None = None
) -> LinearHead:
    """Of standardised features [n, views, width] and rows [n, classes], bool or standardised.

    Shrinkage and scale are those that are given, or of the lowest loss on held-out fifths: of bool
    rows the log loss of logits, of numbers the squared error.
    """
    of_labels = labels.dtype == bool
    rows = np.column_stack([labels.astype(float), np.ones(len(labels))])  # counts what there is
    held = np.arange(len(labels)) % HELD_OUT == 1
    moments = row_moments(features, rows, np.flatnonzero(~held))
    found = Settled(np.inf, *(like or (0.1, 1.0)), None)
    if held.any() and not like:
        seen = features[held].flatten(0, 1).double()
        target = torch.from_numpy(rows[held, :-1]).repeat_interleave(features.shape[1], 0)
        found = downhill(lambda s: best_scale(moments, seen, target, s, of_labels))
    moments += row_moments(features, rows, np.flatnonzero(held))  # may be half a gigabyte
    weight, bias, mean = solve(moments, found.shrinkage)
    if of_labels:
        slope = found.scale / odds(mean)
        offset = torch.logit(mean.clamp(RARE, 1 - RARE)) if found.offset is None else found.offset
        weight, bias = weight * slope[:, None], (bias - mean) * slope + offset
    return LinearHead(weight.float(), bias.float(), found.shrinkage, found.scale)


def row_moments(features: torch.Tensor, rows: np.ndarray, images: np.ndarray) -> ClassMoments:
    """As `ClassMoments.of`; each image counts for every column of its row by the number there."""
    views, width = features.shape[1:]
    each = torch.from_numpy(rows)
    sums = torch.zeros(rows.shape[1], width, dtype=torch.double)
    products = summed(features, images, lambda i, total: sums.add_(each[i].T @ total))
    return ClassMoments(views * each[images].sum(0), sums, products)


def best_scale(
    moments: ClassMoments,
    features: torch.Tensor,
    target: torch.Tensor,
    shrinkage: float,
    of_labels: bool,
) -> Settled:
    """Lowest loss over the scales; numbers have no scale."""
    weight, bias, mean = solve(moments, shrinkage, torch.float)
    found = features @ weight.T + bias
    if not of_labels:
        return Settled(F.mse_loss(found, target).item(), shrinkage, 1.0, None)
    tried = []
    for scale in SCALES_OF_LABELS:
        logits = (found - mean) * (scale / odds(mean))
        offset = fitted_offset(logits, target, mean)
        loss = F.binary_cross_entropy_with_logits(logits + offset, target).item()
        tried.append(Settled(loss, shrinkage, float(scale), offset))
    return min(tried, key=lambda one: one.loss)


def odds(mean: torch.Tensor) -> torch.Tensor:
    """By what a chance moves around the mean of a label, times its log odds: m (1 - m)."""
    mean = mean.clamp(RARE, 1 - RARE)
    return mean * (1 - mean)


def fitted_offset(logits: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """What to add [classes] so that chances are on average those of the labels; by Newton.

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


def solve(
    moments: ClassMoments, shrinkage: float, precision: torch.dtype = torch.double
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight [classes, width] and bias of the regression, and the rows' mean [classes]."""
    n, total = moments.count[-1], moments.sums[-1]
    centre, mean = total / n, moments.count[:-1] / n
    covariance = torch.addr(moments.products, total, centre, alpha=-1).div_(n)
    with_rows = moments.sums[:-1] / n - torch.outer(mean, centre)
    weight = solve_shrunk(covariance, shrinkage, with_rows, precision)
    return weight, mean - weight @ centre, mean
